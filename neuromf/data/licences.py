"""Licences of data sets, shown before a download and in the model card."""

IXI = {
    "name": "CC BY-SA 3.0 (IXI)",
    "address": "https://creativecommons.org/licenses/by-sa/3.0/",
    "forbids": "sharing these scans, or what is made from them, without naming IXI or under other terms",
}
