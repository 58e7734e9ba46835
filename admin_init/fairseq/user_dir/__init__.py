"""Holds ``admin_fairseq_plugin``, the folder for fairseq's ``--user-dir``."""
