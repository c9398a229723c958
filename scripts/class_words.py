"""Write the plain words of ImageNet's classes: training/data/class_words.txt, one line for each class.

A line has the words that a caption may use, the most specific first: "school bus, bus". The last is the kind that
people name; the one before it, if any, is the class itself or its nearest kind with a common name. Words come from the
classes' names in torchvision and from the nouns above them in WordNet (Miller 1995), weighed by how often captions use
them; `CORRECTIONS` has those that this gets wrong. Needs NLTK's `wordnet`:

    python -m scripts.class_words CAPTIONS... > training/data/class_words.txt

`CAPTIONS` are text or gzip files with one caption a line.
"""

import gzip
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nltk.corpus import wordnet
from torchvision.models import ResNet50_Weights

_CLASSES = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
_LEVEL_COST = 1.0  # of a noun one level above another; of twice the frequency: log(2)
_SENSE_COST = 0.7  # of a word for each sense that is more common than the one meant
_SYNONYM_COST = 0.3
_COMMON = 3  # captions in which a kind must occur
_COMMON_NAME = 4  # captions in which the name of a class must occur
_GENERAL_DEPTH = 5  # above which WordNet's nouns are too general
_GENERIC = {
    "animal", "vehicle", "object", "structure", "clothing", "container", "device", "furniture", "equipment",
    "instrument", "tool", "food", "person", "thing", "mammal", "artifact", "plant", "body", "part", "covering",
    "garment", "apparatus", "machine", "implement", "way", "dish", "product", "craft", "creature", "being",
    "mechanism", "work", "works", "surface", "support", "piece", "set", "unit", "group", "line", "block", "barrier",
    "material", "cover", "system", "wear", "wood", "brass", "wind", "control", "arm", "game", "catch", "top", "staff",
    "fixing", "lining", "patch", "doctor", "case", "box", "area", "space", "place", "head", "spot", "point", "end",
    "hold", "light", "fabric", "cloth", "worker", "enclosure", "store", "shop", "house", "building", "reptile",
    "housing", "edifice", "room", "headdress", "fastening", "toiletry", "trap", "warmer", "setup", "sustenance",
    "opening", "upright", "ridge", "grass", "grating", "satellite", "ware", "condiment", "aircraft", "reflector",
    "respirator", "armor", "paraphernalia", "weapon", "cooker", "wrapping", "beverage", "transport", "alcohol",
    "seasoning", "textile", "dwelling", "headgear", "scope", "automatic", "mini", "wader",
    "article of clothing", "electronic equipment", "motor vehicle", "wheeled vehicle", "military vehicle", "hand tool",
    "piece of cloth", "kitchen appliance", "drinking glass", "respiratory device", "face mask", "cooking utensil",
    "retail store", "musical instrument",
}  # fmt: skip

CORRECTIONS = {
    "abacus": "abacus", "academic gown": "graduation gown, gown", "acorn": "acorn, nut", "agaric": "mushroom",
    "American alligator": "alligator", "American lobster": "lobster", "amphibian": "vehicle", "apiary": "beehive",
    "assault rifle": "rifle, gun", "barbershop": "barber shop, shop", "bell cote": "bell tower, tower",
    "bighorn": "sheep", "boathouse": "boathouse", "bolete": "mushroom", "bassoon": "bassoon", "breastplate": "armor",
    "brass": "plaque", "buckeye": "nut", "cab": "taxi", "Cardigan": "dog", "carousel": "carousel",
    "cash machine": "atm", "chain mail": "armor", "chime": "wind chime", "cinema": "movie theater, theater",
    "cliff dwelling": "cliff", "clog": "shoe", "consomme": "soup", "coral fungus": "mushroom", "cougar": "cougar",
    "Crock Pot": "crock pot, pot", "crossword puzzle": "crossword puzzle, puzzle", "cuirass": "armor",
    "custard apple": "fruit", "dhole": "wild dog", "dingo": "wild dog", "dishrag": "cloth",
    "African hunting dog": "wild dog", "dome": "dome", "drilling platform": "oil rig", "ear": "corn",
    "earthstar": "mushroom", "eft": "newt", "eggnog": "drink", "electric locomotive": "locomotive, train",
    "feather boa": "feather boa, scarf", "fig": "fig, fruit", "file": "filing cabinet, cabinet",
    "fire engine": "fire truck, truck", "freight car": "train car, train", "gong": "gong", "grey whale": "whale",
    "groom": "groom", "gyromitra": "mushroom", "hair slide": "hair clip", "half track": "military truck, truck",
    "hand blower": "hair dryer", "hard disc": "hard drive", "hen-of-the-woods": "mushroom",
    "hermit crab": "crab", "hip": "berry", "hoopskirt": "skirt", "horizontal bar": "bar", "hot pot": "stew",
    "indri": "lemur", "isopod": "bug", "jack-o'-lantern": "pumpkin", "jackfruit": "fruit", "jean": "jeans",
    "jersey": "jersey, shirt", "jigsaw puzzle": "jigsaw puzzle, puzzle", "killer whale": "whale", "ladybug": "ladybug",
    "lakeside": "lake", "Loafer": "shoe", "lawn mower": "lawn mower", "loupe": "magnifying glass",
    "Madagascar cat": "lemur", "maillot": "swimsuit", "maillot tank suit": "swimsuit",
    "marimba": "xylophone", "miniskirt": "skirt", "missile": "missile, rocket", "mortarboard": "graduation cap, cap",
    "mouse": "computer mouse, mouse", "mud turtle": "turtle", "box turtle": "turtle", "mushroom": "mushroom",
    "nematode": "worm", "flatworm": "worm", "nipple": "bottle", "ocarina": "flute", "orangutan": "orangutan",
    "organ": "pipe organ, organ", "oscilloscope": "oscilloscope", "overskirt": "skirt", "ox": "cow",
    "panpipe": "flute", "parallel bars": "bars", "passenger car": "train car, train", "pinwheel": "pinwheel",
    "polecat": "polecat", "pomegranate": "pomegranate, fruit", "potpie": "pie", "projectile": "rocket",
    "promontory": "cliff", "punching bag": "punching bag, bag", "rain barrel": "barrel", "rapeseed": "field",
    "recreational vehicle": "rv", "rule": "ruler", "slide rule": "ruler", "sandbar": "beach", "seashore": "beach",
    "schooner": "sailboat, ship", "scuba diver": "scuba diver, diver", "sleeping bag": "sleeping bag",
    "sorrel": "horse", "space bar": "keyboard", "spiny lobster": "lobster", "steam locomotive": "locomotive, train",
    "stinkhorn": "mushroom", "sunglass": "sunglasses", "switch": "light switch, switch", "tabby": "cat",
    "teddy": "teddy bear", "terrapin": "turtle", "thresher": "farm machine", "harvester": "farm machine",
    "tiger cat": "cat", "tobacco shop": "shop", "toyshop": "toy store, store", "upright": "piano", "vault": "ceiling",
    "vestment": "robe", "warplane": "fighter jet, plane", "web site": "website", "whistle": "whistle",
    "worm fence": "fence", "wreck": "shipwreck, ship", "candle": "candle", "leatherback turtle": "sea turtle, turtle",
    "loggerhead": "sea turtle, turtle", "cassette": "cassette", "bathing cap": "swimming cap, cap",
    "cock": "rooster, chicken", "hen": "chicken, bird", "book jacket": "book", "comic book": "comic book, book",
    "lens cap": "camera lens", "ballplayer": "baseball player", "kite": "hawk, bird", "redbone": "dog",
    "hotdog": "hotdog", "cannon": "cannon", "cucumber": "cucumber, vegetable", "pineapple": "pineapple, fruit",
    "cauliflower": "cauliflower, vegetable", "zucchini": "zucchini, vegetable", "artichoke": "artichoke, vegetable",
    "bell pepper": "bell pepper, pepper", "beaker": "beaker", "baseball": "baseball, ball",
    "steel drum": "steel drum, drum", "white stork": "stork, bird", "black stork": "stork, bird",
    "little blue heron": "heron, bird", "crane bird": "crane, bird", "European fire salamander": "salamander",
    "spotted salamander": "salamander", "common newt": "newt", "bullet train": "train", "three-toed sloth": "sloth",
    "mailbag": "bag", "yawl": "sailboat, boat", "hummingbird": "hummingbird, bird", "ptarmigan": "bird",
    "toucan": "toucan, bird", "drake": "duck, bird", "red-breasted merganser": "duck, bird", "ostrich": "ostrich, bird",
}  # fmt: skip
"""By the class's name: a word that WordNet does not offer, or another sense of one that it does."""


def main(files: Iterable[str]) -> None:
    """Print the words of each class, in the order of the classes."""
    count = _frequencies(map(Path, files))
    for name, noun in zip(_CLASSES, _nouns(), strict=True):
        print(CORRECTIONS.get(name) or ", ".join(_words(name, noun, count)))


def _frequencies(files: Iterable[Path]) -> Counter[str]:
    """Return in how many captions each word, pair and triple of words occurs."""
    count: Counter[str] = Counter()
    for path in files:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            for line in lines:
                words = re.findall("[a-z]+", line.lower())
                count.update({" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)})
    return count


def _nouns() -> list[Any]:
    """Return the WordNet noun of each class.

    ImageNet's classes are in the order of WordNet's offsets, and a name may have several senses: the longest rising
    sequence of offsets tells which is meant.
    """
    best: list[tuple[float, int, tuple[Any, ...]]] = [(0.0, 0, ())]  # score, last offset, nouns
    for name in _CLASSES:
        senses = wordnet.synsets(name.lower().replace(" ", "_"), "n")
        longer: dict[int, tuple[float, int, tuple[Any, ...]]] = {}
        for score, last, path in best:
            options = [(score, last, (*path, None))]
            options += [
                (score + 1 - 0.01 * (senses.index(noun) if noun in senses else 9), noun.offset(), (*path, noun))
                for noun in _candidates(name)
                if noun.offset() > last
            ]
            for option in options:
                if option[1] not in longer or longer[option[1]][0] < option[0]:
                    longer[option[1]] = option
        best, most = [], -1.0
        for option in sorted(longer.values(), key=lambda o: (o[1], -o[0])):
            if option[0] > most:  # none that ends earlier is as good
                best.append(option)
                most = option[0]
    return list(max(best)[2])


def _candidates(name: str) -> list[Any]:
    """Return the nouns that a class's name may mean; of a name that WordNet lacks, those of its first or last words."""
    forms = (name.replace(" ", "_"), name.replace("-", "_").replace(" ", "_"), name.replace(" ", "-"))
    found = {noun for form in forms for noun in wordnet.synsets(form.lower(), "n")}
    parts = name.lower().split()
    for kept in range(len(parts) - 1, 0, -1):
        if not found:
            found = {s for words in (parts[:kept], parts[-kept:]) for s in wordnet.synsets("_".join(words), "n")}
    return sorted(found, key=lambda noun: noun.offset())


def _words(name: str, noun: Any, count: Counter[str]) -> list[str]:
    """Return the class's common name, if it has one, and its kind."""
    scored = list(_scored(name, noun, count))
    if not scored:
        return [_plain(name)]
    kind = max(scored)
    lower = [(level, -often, word) for _, level, often, word, own in scored
             if level < kind[1] and often >= _COMMON_NAME and own and word not in _GENERIC]  # fmt: skip
    named = min(lower, default=(0, 0, kind[3]))[2]
    return list(dict.fromkeys((named, kind[3])))


def _scored(name: str, noun: Any, count: Counter[str]) -> Iterator[tuple[float, int, int, str, bool]]:
    """Yield words for a noun and those above it: score, level, frequency, word, whether it first means this noun."""
    for path in noun.hypernym_paths():
        for level, node in enumerate(reversed(path)):
            if level and node.min_depth() < _GENERAL_DEPTH:
                break
            for place, lemma in enumerate(node.lemmas()):
                word = _plain(lemma.name())
                senses = wordnet.synsets(lemma.name(), "n")
                sense = senses.index(node) if node in senses else 3
                often = _often(word, count)
                misleading = sense > 0 and (level > 0 or word not in _plain(name))
                generic = word in _GENERIC
                if (
                    often < _COMMON
                    or misleading
                    or (level and generic)
                    or len(word) < 3
                    or not word.replace(" ", "").isalpha()
                ):
                    continue
                cost = _LEVEL_COST * level + _SENSE_COST * sense + _SYNONYM_COST * place
                yield math.log(often) - cost, level, often, word, sense == 0


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ").replace("'s", "")


def _often(word: str, count: Counter[str]) -> int:
    """Return in how many captions a word occurs, in singular or plural."""
    plurals = [f"{word}s", f"{word}es", *([f"{word[:-1]}ies"] if word.endswith("y") else [])]
    return count[word] + sum(count[plural] for plural in plurals)


if __name__ == "__main__":
    main(sys.argv[1:])
