"""Licences of data sets, shown before a download and in the model card."""

IXI = {
    "name": "CC BY-SA 3.0 (IXI)",
    "address": "https://creativecommons.org/licenses/by-sa/3.0/",
    "forbids": "sharing these scans, or what is made from them, without naming IXI or under other terms",
}
NEUROSYNTH = {
    "name": "ODbL 1.0 (Neurosynth)",
    "address": "https://opendatacommons.org/licenses/odbl/1-0/",
    "forbids": "sharing the tables, or tables derived from them, without naming Neurosynth or under other terms",
}
NEUROVAULT = {
    "name": "CC0 (NeuroVault collection 1425, image 10426)",
    "address": "https://creativecommons.org/publicdomain/zero/1.0/",
    "forbids": "nothing; name the publications",
}
