"""One model under the lens: what `admin-init diagnose` measures, draws and writes."""
