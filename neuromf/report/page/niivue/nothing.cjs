// Stands in for packages that NiiVue names but this page never calls: readers of Zarr stores over a network.
module.exports = {};
