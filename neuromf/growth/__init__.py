"""Growth of tumours: variational autoencoders of four contrasts, their training, diagnostics and collapse study."""
