"""The MAISI autoencoder: architecture, weights, training, latents and their statistics."""
