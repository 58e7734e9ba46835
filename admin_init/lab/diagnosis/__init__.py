"""Diagnosis of one model: the measurements, the figure and the files of `admin-init diagnose`."""
