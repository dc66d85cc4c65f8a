// Replaces packages that NiiVue imports but the page never uses: readers of Zarr stores over a network.
module.exports = {};
