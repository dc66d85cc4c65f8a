"""MeanFlow in latent space: mathematics, priors, training, sampling."""
