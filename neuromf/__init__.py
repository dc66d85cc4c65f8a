"""neuromf: 3D brain MRI in one network evaluation. Import the rooms by name; this file imports none of them."""
