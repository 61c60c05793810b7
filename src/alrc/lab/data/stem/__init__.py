"""Scans of electron microscopes, real and simulated, and the paths of partial ones."""
