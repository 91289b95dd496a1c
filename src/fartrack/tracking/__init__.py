"""The tracking loop: state in, track out; the template memory; several targets."""
