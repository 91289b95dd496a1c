"""The network: its configuration (no PyTorch), the encoder, the losses and the start weights."""
