"""Data sets by name or folder, models and tokenizers by name; importing this loads neither torch nor transformers."""

from .errors import DataIntegrityError, DataUnavailableError
from .frames import load_task, sample, task_of
from .image_batches import make_image_dataloader
from .images import load_images
from .loader import make_dataloader
from .models import load_model, load_tokenizer
from .tasks import TASKS, FileSpec, Task

__all__ = [
    "TASKS",
    "DataIntegrityError",
    "DataUnavailableError",
    "FileSpec",
    "Task",
    "load_images",
    "load_model",
    "load_task",
    "load_tokenizer",
    "make_dataloader",
    "make_image_dataloader",
    "sample",
    "task_of",
]
