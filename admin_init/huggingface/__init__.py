"""Admin in the Trainer of Hugging Face's transformers."""

from admin_init.huggingface.callback import AdminCallback as AdminCallback
