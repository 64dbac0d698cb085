"""The table of known data sets: which files they have, how many rows, and what is in the columns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

GLUE_REPO = "nyu-mll/glue"
GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
_GLUE_CREDIT = (
    "GLUE (Wang et al., 2018), https://gluebenchmark.com; each task keeps the licence of its source corpus"
)


@dataclass(frozen=True)
class FileSpec:
    """One Parquet file.

    Attributes
    ----------
    path : str
        Relative path: below the hub repository, below the package's assets when the task is bundled, or in the user's
        folder. Several shards in a folder are one entry, with ``*`` for their numbers.
    rows : int
        Number of examples in the official (or bundled, or the user's) file.
    sha256 : str
        SHA-256 of the file, 64 hexadecimal digits. Of several shards: of their digests, see `load_task`.
    """

    path: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Task:
    """A labelled text data set with one or two text columns.

    Attributes
    ----------
    name : str
        The name `load_task` knows it by, or the name of the user's folder.
    text_columns : tuple of str
        One or two column names, in the order in which a tokenizer should see them.
    n_labels : int
        Number of classes; 1 means regression.
    label_names : tuple of str
        Names of the classes 0 .. n_labels - 1, empty for regression.
    splits : mapping of str to FileSpec
        The files by split name.
    repo, revision : str
        Hub data set and commit the files come from; for a bundled task, where its rows were drawn from; empty for a
        folder.
    bundled : bool
        True when the files are part of this package.
    attribution : str
        Source and licence; empty for a folder.
    score_range : tuple of float
        Smallest and largest label of a regression: 0 and 5 for a similarity score, those of the train split for a
        folder. Without meaning for classes.
    """

    folder: ClassVar[str] = "glue/"  # of the user's data folder, before the path of a file

    name: str
    text_columns: tuple[str, ...]
    n_labels: int
    label_names: tuple[str, ...]
    splits: Mapping[str, FileSpec] = field(repr=False)
    repo: str = GLUE_REPO
    revision: str = GLUE_REVISION
    bundled: bool = False
    attribution: str = _GLUE_CREDIT
    score_range: tuple[float, float] = (0.0, 5.0)

    @property
    def regression(self) -> bool:
        """True when the label is a real number (one output) and not a class."""
        return self.n_labels == 1

    @property
    def label_range(self) -> tuple[float, float]:
        """Smallest and largest label, which are 0 and ``n_labels - 1``, or `score_range` for a regression."""
        return self.score_range if self.regression else (0, self.n_labels - 1)


def _glue_file(task: str, stem: str, rows: int, sha256: str) -> FileSpec:
    return FileSpec(f"{task}/{stem}-00000-of-00001.parquet", rows, sha256)


def _glue(
    name: str, columns: tuple[str, ...], labels: tuple[str, ...], train: tuple[int, str], validation: tuple[int, str]
) -> Task:
    splits = {
        "train": _glue_file(name, "train", *train),
        "validation": _glue_file(name, "validation", *validation),
    }
    return Task(name, columns, max(len(labels), 1), labels, splits)


_COLA = _glue(
    "cola",
    ("sentence",),
    ("unacceptable", "acceptable"),
    train=(8551, "2e7538afa2000e63f5343f16a758d75c452661a384208399d2035cd2fce45c33"),
    validation=(1043, "c14b7219a7d9f9fe3dd291fd000f6623ee413805eb108c9c49578ed50873e4ba"),
)
_SST2 = _glue(
    "sst2",
    ("sentence",),
    ("negative", "positive"),
    train=(67349, "66a253e67968acfabcbe49dbe9da964b42ac1c851c40ab760e8c8942efdb3229"),
    validation=(872, "a1371f3b3a7b0bcefa8388799a9359dc3ce76c349cc0079507a7991364fd2a9b"),
)
_MRPC = _glue(
    "mrpc",
    ("sentence1", "sentence2"),
    ("not_equivalent", "equivalent"),
    train=(3668, "61fd41301e0e244b0420c4350a170c8e7cf64740335fc875a4af2d79af0df0af"),
    validation=(408, "33c007dbf5bfa8463d87a13e6226df8c0fcf2596c2cd39d0f3bb79754e00f50f"),
)
_STSB = _glue(
    "stsb",
    ("sentence1", "sentence2"),
    (),
    train=(5749, "bbd93bbb988fd18437e02185fe3b2bd9a18350376c392e7820de9df1b247ed1f"),
    validation=(1500, "152de7cf1fa34ee4df1c243bd209b02ade21a1d5c4fb3b7da5240f78e4000aa9"),
)
_QQP = _glue(
    "qqp",
    ("question1", "question2"),
    ("not_duplicate", "duplicate"),
    train=(363846, "4d6f02e643f7c36e9a4f7d4971a5ee9bd74063a319452fe6c87850c739774cd7"),
    validation=(40430, "efd86a539c412d74874ee451573d7bd142f56c47fe36de033b9f367d8bb0fa71"),
)
_QNLI = _glue(
    "qnli",
    ("question", "sentence"),
    ("entailment", "not_entailment"),
    train=(104743, "ebc7cb70a5bbde0b0336c3d51f31bb4df4673e908e8874b090b52169b1365c6c"),
    validation=(5463, "e69311b81dc65589286091d9905a27617a90436dd215c7a59832fa8f4f336169"),
)
_RTE = _glue(
    "rte",
    ("sentence1", "sentence2"),
    ("entailment", "not_entailment"),
    train=(2490, "a6252ab17015d718f6de1effe0980f7b158df63e3d16207cd8bd396b608e5147"),
    validation=(277, "fb2aa2e04f551133ba663617a15ae133dc22b0f6a969bc0629b5ea6003ee9cf8"),
)
_MNLI_MATCHED = _glue_file(
    "mnli", "validation_matched", 9815, "7f918c09d9c35446b8e8f06a5672f8ab704e2897fecbf52e2e154141f3d7c421"
)
_MNLI = Task(
    "mnli",
    ("premise", "hypothesis"),
    3,
    ("entailment", "neutral", "contradiction"),
    {
        "train": _glue_file(
            "mnli", "train", 392702, "49a4a5508b89b8fed2c6e81d2c47d00f4759050a7048c6cc5d95d31122ced3c1"
        ),
        "validation": _MNLI_MATCHED,
        "validation_matched": _MNLI_MATCHED,
        "validation_mismatched": _glue_file(
            "mnli", "validation_mismatched", 9832, "04aba92823a954be36fe1b69b61eed334c9eb1009daba0dd79f69d77b87c535c"
        ),
    },
)

# The subsets shipped with the package, made by `companion.data.make_subsets`.
_QNLI_MINI = replace(
    _QNLI,
    name="qnli-mini",
    bundled=True,
    splits={
        "train": FileSpec(
            "qnli-mini/train.parquet", 8192, "4f0594b9ec4509018bf269699fa42e31ebbe050eb195a01271cf0a40e9e2b8eb"
        ),
        "validation": FileSpec(
            "qnli-mini/validation.parquet", 1000, "bb911e7609d2f5ff1f25a9f80dc3a2a9aefa0ebc8f2be0b170294df896253ec5"
        ),
    },
    attribution="sample of QNLI (GLUE; from SQuAD 1.1, Rajpurkar et al., 2016), CC BY-SA 4.0",
)
_STSB_MINI = replace(
    _STSB,
    name="stsb-mini",
    bundled=True,
    splits={
        "train": FileSpec(
            "stsb-mini/train.parquet", 2000, "fef143730b6a00a9375c2e78efdc2c3e735ededfb32e3932a43bb0224030b7c4"
        ),
        "validation": FileSpec(
            "stsb-mini/validation.parquet", 500, "778e2835e821088f7b46156bb76a72d69d14415fb5c3ed84ded94cc59704ccbf"
        ),
    },
    attribution="sample of STS-B (GLUE; Cer et al., 2017), CC BY-SA 4.0",
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (_COLA, _SST2, _MRPC, _STSB, _QQP, _MNLI, _QNLI, _RTE, _QNLI_MINI, _STSB_MINI)
}
"""The known tasks by name; `load_task` takes these names, and folders."""
