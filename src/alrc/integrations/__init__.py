"""What fits alrc.torch into the trainers and dashboards that people use."""
