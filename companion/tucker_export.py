"""A Tucker-LoRA adapter as plain LoRA, without loss.

``(U1 (x) U2) G_(12,3) U3'`` has rank min(r1 r2, r3) at most and comes as a product of two thin matrices, so it is a
LoRA update: what is saved loads with PEFT alone, and in everything else that reads LoRA.
"""

import os
import shutil
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file

from companion.spectral_lora import to_lora_config
from companion.tucker_layer import TuckerLinear
from companion.tucker_lora import TuckerLoraConfig

__all__ = ["to_lora"]


def to_lora(model: PeftModel, path: str | os.PathLike, adapter: str = "default") -> Path:
    """Save a Tucker-LoRA adapter as a plain LoRA adapter of the same base.

    Parameters
    ----------
    model : peft.PeftModel
        With a Tucker-LoRA adapter; left as it is.
    path : str or path
        A folder that does not exist or is empty. It appears when it is complete, or not at all.
    adapter : str
        Name of the adapter.

    Returns
    -------
    pathlib.Path
        The folder, with ``adapter_config.json`` and ``adapter_model.safetensors``. Each module has its own rank,
        min(r1 r2, r3), by full name, and the scaling 1; shared factors are written out for each module. Trained heads
        come along.

    Raises
    ------
    TypeError
        `model` is no PEFT model.
    ValueError
        No such adapter, an adapter that is not Tucker-LoRA, factors with NaN or infinity, or the current folder as `path`.
    FileExistsError
        There is something at `path`.

    Examples
    --------
    With `model` from `peft.get_peft_model`::

        to_lora(model, "my-adapter")
        peft.PeftModel.from_pretrained(base, "my-adapter")  # where this package is not installed, too
    """
    path = Path(path)
    old = _config(model, adapter)
    if path.resolve() == Path.cwd():
        raise ValueError(f"path: got {str(path)!r}, the current folder, which cannot be replaced; accepted: another one")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"path: {path} exists and is not an empty folder")
    weights, ranks = _weights(model, adapter)
    config = LoraConfig(
        task_type=old.task_type, modules_to_save=old.modules_to_save, lora_dropout=old.dropout,
        base_model_name_or_path=old.base_model_name_or_path, revision=old.revision, inference_mode=True,
    )  # fmt: skip
    others = dict.fromkeys((name for name, _ in model.get_base_model().named_modules() if name), 0)
    config = to_lora_config(others | ranks, config, scaling=1.0)
    if config.base_model_name_or_path is None:  # as PeftModel.save_pretrained does
        config.base_model_name_or_path = getattr(model.get_base_model(), "name_or_path", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        save_file(weights, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        config.save_pretrained(folder)
        for file in folder.iterdir():
            file.chmod(0o666 & ~_umask())  # safetensors writes, and a temporary folder is, for the owner only
        folder.chmod(0o777 & ~_umask())
        os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return path


def _config(model: PeftModel, adapter: str) -> TuckerLoraConfig:
    if not isinstance(model, PeftModel):
        raise TypeError(f"model must be a peft.PeftModel, got {type(model).__name__}")
    if adapter not in model.peft_config:
        raise ValueError(f"adapter: got {adapter!r}; the model has {', '.join(map(repr, model.peft_config))}")
    config = model.peft_config[adapter]
    if not isinstance(config, TuckerLoraConfig):
        raise ValueError(f"adapter {adapter!r} must be Tucker-LoRA, got {type(config).__name__}")
    return config


@torch.no_grad()
def _weights(model: PeftModel, adapter: str) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Tensors as PEFT saves them for LoRA, and ranks by full name."""
    saved = get_peft_model_state_dict(model, adapter_name=adapter)
    weights = {key: value.detach().clone().contiguous() for key, value in saved.items() if ".tucker_" not in key}
    ranks = {}
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, TuckerLinear) and adapter in layer.r:
            b, a = layer.lora_factors(adapter)
            if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
                raise ValueError(f"the factors of {name} hold NaN or infinity")
            ranks[name] = a.shape[0]
            for kind, factor in (("A", a), ("B", b)):
                weights[f"base_model.model.{name}.lora_{kind}.weight"] = factor.detach().clone().contiguous()
    return weights, ranks


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
