"""Files of a figure: PDF and PNG that carry their provenance."""

import json

from PIL import Image


def check_figure(stem, statement=""):
    """Facts of stem.json, which stem.pdf and stem.png carry; `statement` is what they say about simulated data."""
    facts = json.loads(stem.with_suffix(".json").read_text())
    content = stem.with_suffix(".pdf").read_bytes()
    assert content.startswith(b"%PDF") and b"/Subject" in content and len(content) > 8_000
    with Image.open(stem.with_suffix(".png")) as image:
        assert json.loads(image.text["Description"]) == facts and image.width == 2100
    if statement:
        assert facts["simulated"] == statement and f'"simulated": "{statement}"'.encode() in content
    return facts
