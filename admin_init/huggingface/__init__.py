"""Admin in the Trainer of Hugging Face's transformers."""

from admin_init.errors import require_extra

require_extra("huggingface", "transformers", "accelerate")

from admin_init.huggingface.callback import AdminCallback as AdminCallback  # noqa: E402
