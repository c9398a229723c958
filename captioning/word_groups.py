"""Groups of words with a meaning for the code. This module does not import torch."""

FUNCTION_WORDS = {
    "a", "an", "the", "of", "in", "on", "at", "to", "and", "or", "with", "is", "are", "his", "her", "its",
    "their", "it", "by", "for", "from", "as", "while", "into", "onto", "up",
}  # fmt: skip
"""Words that name nothing."""

MALE = {"man", "men", "boy", "boys", "guy", "guys", "male", "gentleman", "he", "his", "him"}
FEMALE = {"woman", "women", "girl", "girls", "lady", "ladies", "female", "she", "her"}
PEOPLE = MALE | FEMALE | {
    "person", "people", "persons", "child", "children", "kid", "kids", "baby", "babies", "toddler", "toddlers", "adult",
    "adults", "player", "players", "couple", "crowd", "someone", "somebody", "man's", "woman's", "boy's", "girl's",
}  # fmt: skip
DOGS = {"dog", "dogs", "puppy", "puppies", "dog's"}
THINGS = {"people": PEOPLE, "dogs": DOGS}
"""What captioners that learned from Flickr8k name though it is not there, and the words for it."""


def content_words(text: str) -> set[str]:
    """Return the words of a caption that name something."""
    return set(text.lower().split()) - FUNCTION_WORDS
