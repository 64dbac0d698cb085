"""The table of known image data sets: their files, their classes, and what is done to an image when it is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from .tasks import FileSpec


@dataclass(frozen=True)
class ImageTask:
    """A labelled image data set.

    Attributes
    ----------
    name : str
        The name `load_images` knows it by.
    image_column, label_column : str
        Columns of the files.
    label_names : tuple of str
        Names of the classes 0, 1, and so on.
    splits : mapping of str to FileSpec
        The files by split name.
    repo, revision : str
        Hub data set and commit the files come from; empty when they are part of this package.
    bundled : bool
        True when the files are part of this package.
    attribution : str
        Source and licence.
    margin : int
        Black pixels that loading adds on each side of an image.
    """

    folder: ClassVar[str] = ""  # of the user's data folder, before the path of a file

    name: str
    image_column: str
    label_column: str
    label_names: tuple[str, ...]
    splits: Mapping[str, FileSpec] = field(repr=False)
    repo: str = ""
    revision: str = ""
    bundled: bool = False
    attribution: str = ""
    margin: int = 0


_CIFAR100 = ImageTask(
    "cifar100",
    image_column="img",
    label_column="fine_label",
    label_names=tuple(
        """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
        caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
        flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
        maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
        plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
        snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
        trout tulip turtle wardrobe whale willow_tree wolf woman worm
        """.split()
    ),
    splits={
        "train": FileSpec(
            "cifar100/train-00000-of-00001.parquet",
            50000,
            "694865d6b990e234804f01268586c41e88bcbbb75e20858432c05ad4081aca23",
        ),
        "test": FileSpec(
            "cifar100/test-00000-of-00001.parquet",
            10000,
            "98776c529bb146a9c791229df74a5cf076be9b43d82dbbd334b6a7788d73dc68",
        ),
    },
    repo="uoft-cs/cifar100",
    revision="aadb3af77e9048adbea6b47c21a81e47dd092ae5",
    attribution="CIFAR-100 (Krizhevsky, 2009), https://www.cs.toronto.edu/~kriz/cifar.html",
)

# Made by `companion.data.make_images`.
_FASHION_MNIST_MINI = ImageTask(
    "fashion-mnist-mini",
    image_column="image",
    label_column="label",
    label_names=(
        "t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
    splits={
        "train": FileSpec(
            "fashion-mnist-mini/train.parquet", 2000, "db98ae48c8a209b5f462cf933bd533af244563dc613f5ab8308a86f8e93766de"
        ),
        "test": FileSpec(
            "fashion-mnist-mini/test.parquet", 1000, "2a39d35f8a99481006ec9f68c71631f5a7a22b47a524b3ba4499829db0e1ac3e"
        ),
    },
    bundled=True,
    attribution="sample of Fashion-MNIST (Xiao et al., 2017), MIT licence",
    margin=2,
)  # fmt: skip

IMAGE_TASKS: dict[str, ImageTask] = {task.name: task for task in (_CIFAR100, _FASHION_MNIST_MINI)}
"""The known image data sets by name; `load_images` takes these names, and folders."""
