"""Metrics with their intervals, calibration, suspicious labels, and the verdict in words."""
