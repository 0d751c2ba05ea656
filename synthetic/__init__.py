"""Embedded data that stand in for those that have to be downloaded: OCT-like scans, spoken sentences."""
