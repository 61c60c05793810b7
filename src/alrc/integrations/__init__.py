"""What fits ALRC into the trainers and dashboards that people use; PyTorch only."""
