"""neuromf: latent generative models of the human brain. Import packages by name; this file imports none of them."""
