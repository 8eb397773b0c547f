"""Training of Pix2Pix on tiles of the store: samples, simulated laboratories, the loop, its state and log."""
