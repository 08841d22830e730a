"""Making pictures larger: latents between two passes, pixels by networks, the x4 upscaler."""
