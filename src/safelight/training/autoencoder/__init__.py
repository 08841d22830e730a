"""Training of KL and VQ autoencoders: the codec of a latent diffusion model."""
