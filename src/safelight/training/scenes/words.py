"""English for captions: spoken names, articles, plurals, and words that people use instead.

A small rule for each and a table for what it gets wrong, made for the names of Unicode's emoji.
"""

import re
from collections.abc import Iterable

from safelight.training.scenes.colours import COLOUR_WORDS


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


COUNT_WORDS = {2: "two", 3: "three", 4: "four"}
PLACE_WORDS = _set("left right above below top bottom next centre center middle up down corner")
NUMBER_WORDS = _set("one two three four five six seven eight nine ten hundred")
STYLE_WORDS = _set("3d glossy flat gradient soft noto classic twemoji emojitwo firefox emoji style")

# Mass nouns, names of games and weather, states, and what is one of its kind: no article, no count.
_MASS = _set(
    """
    bacon badminton bowling bread broccoli bubble-tea butter camping canned-food
    construction cooked-rice cooking coral curry-rice dashing-away dizzy dna falafel
    field-hockey fire fog foggy fondue garlic high-voltage ice ice-cream ice-hockey lacrosse
    light-rail locked locked-with-key locked-with-pen mate meat-on-bone milky-way
    money-with-wings mount-fuji oden ping-pong pouring-liquid popcorn
    sake salt shaved-ice soap soft-ice-cream spaghetti sushi tennis thread tokyo-tower
    unlocked wood yarn zzz rolling-on-the-floor-laughing ginger-root luggage lightning
    saturn cutlery boba-tea
    head-shaking-horizontally head-shaking-vertically breast-feeding horse-racing nail-polish
    mrs.-claus mx-claus santa-claus thumbs-up thumbs-down palms-up-together
    """
)
# Names that are plural already: no article, and they stand for one picture.
_PLURAL = _set(
    """
    admission-tickets ballet-shoes beans blueberries books bookmark-tabs briefs bubbles
    card-index-dividers chains cherries chopsticks clinking-beer-mugs clinking-glasses
    control-knobs crossed-swords dizzy-stars fries trousers swords
    film-frames fireworks
    flower-playing-cards french-fries glasses gloves goggles grapes hot-springs
    houses hundred-points japanese-dolls jeans linked-paperclips theatre-masks
    matryoshka-dolls
    maracas musical-notes nesting-dolls pancakes paw-prints peanuts performing-arts prayer-beads
    revolving-hearts scissors shopping-bags shorts skis socks sparkles sunglasses sweat-droplets
    two-hearts woman's-clothes eyes lungs footprints clapping-hands folded-hands open-hands
    raising-hands heart-hands crossed-fingers pinched-fingers busts-in-silhouette people-hugging
    people-holding-hands men-holding-hands women-holding-hands woman-and-man-holding-hands
    men-with-bunny-ears people-with-bunny-ears women-with-bunny-ears men-wrestling
    people-wrestling women-wrestling fork-and-knife fork-and-knife-with-plate
    """
)
# Said with an article, but a plural would be odd.
_SINGLE = _set(
    """
    airplane-arrival airplane-departure chart-decreasing chart-increasing
    chart-increasing-with-yen cricket-game cut-of-meat eye-in-speech-bubble face-exhaling
    face-in-clouds flag-in-hole heart-decoration hourglass-done hourglass-not-done leafy-green
    flexed-biceps raised-back-of-hand
    moon-viewing-ceremony night-with-stars bridge-at-night cityscape-at-dusk
    sunrise-over-mountains beach-with-umbrella speaker-high-volume speaker-low-volume
    speaker-medium-volume statue-of-liberty map-of-japan star-struck sheaf-of-rice cityscape
    desert sunrise sunset national-park wedding kaaba landslide motorway station
    """
)
# Keywords fit to stand beside a name. Most others are slang, far-fetched, or said of a few.
_SORTS = _set(
    """
    accessories activity animal baby bakery beach beverage bird body breakfast bug building
    business celebration christmas circus city clothes clothing cold comic computer cooking cute
    dessert drink education emotion entertainment evening face fairytale family fantasy farm farming
    fashion festival fish flower food fruit fun funny furniture game garden gesture halloween hand
    happy health hobby holiday home hot human insect instrument japanese kitchen laugh lock love
    magic mail meat medicine monster mood mountain music nature night ocean office paper party
    pastry person pet planet plant rain religion restaurant rodent romance sad scary school science
    sea shopping sick sky sleep smile snack snow sound space sport sports spring stationery summer
    surprise sweet technology time tired tool tools toy train transportation travel tropical upset
    vegetable vehicle video water weapon weather wild winter writing zoo
    """
)
_SPOKEN = {"star-struck": "star-struck face", "dizzy": "dizzy stars"}
_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "person": "people",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "ox": "oxen",
    "foot": "feet",
    "tooth": "teeth",
    "die": "dice",
    "leaf": "leaves",
    "wolf": "wolves",
    "knife": "knives",
    "scarf": "scarves",
    "elf": "elves",
    "snowman": "snowmen",
    "merman": "mermen",
    "sheep": "sheep",
    "fish": "fish",
    "blowfish": "blowfish",
    "jellyfish": "jellyfish",
    "shrimp": "shrimp",
    "squid": "squid",
    "deer": "deer",
    "moose": "moose",
    "bison": "bison",
    "buffalo": "buffalo",
    "cactus": "cacti",
    "moai": "moai",
    "elk": "elk",
    "onigiri": "onigiri",
    "pufferfish": "pufferfish",
    "dango": "dango",
    "bento": "bento",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "mango": "mangoes",
    "volcano": "volcanoes",
    "tornado": "tornadoes",
    "mosquito": "mosquitoes",
    "superhero": "superheroes",
    "hippopotamus": "hippopotamuses",
    "series": "series",
    "poo": "poo",
}
_AFTER_HEAD = re.compile(
    r" (?=(?:of|with|without|in|on|at|from|behind|over|under|for|showing|facing|holding|blowing"
    r"|savoring|screaming|exhaling|vomiting|fluttering|savouring|tilted|pointing|spouting)\b)"
)
_SOMEBODY = re.compile(
    r"(?:deaf )?(?:man|woman|person|men|women|people|couple|family|kiss)\b(?!'s)"
)
_AN = re.compile(r"[aeiou8]|hour|honest|heir|x-ray|mri\b|1[18]\b")
_A = re.compile(r"uni(?!n)|use|ufo|eu|ewe|one\b|one-|once|ut[ei]|uk")


def spoken(name: str) -> str:
    """A catalogue's name as one would say it: `bald man` for `man: bald`."""
    if name in _SPOKEN:
        return _SPOKEN[name]
    head, colon, rest = name.partition(": ")
    if not colon:
        return name
    if head == "flag":
        return f"flag of {rest}"
    if head == "keycap":
        return f"keycap {rest}"
    if rest.startswith("facing"):
        return f"{head} {rest}"
    if rest == "bald":
        return f"bald {head}"
    if head in ("man", "woman", "person"):
        return f"{head} with {'a ' if rest == 'beard' else ''}{rest}"
    *others, last = rest.split(", ")
    return f"{head} of {', '.join(others)} and {last}" if others else f"{head} of {last}"


def article(words: str) -> str:
    """`a` or `an`, by the sound that the words begin with."""
    return "an" if _AN.match(words) and not _A.match(words) else "a"


def with_article(words: str) -> str:
    """The words after `a` or `an`, unless they are a mass, a plural or a name: `a cat`, `fog`."""
    key = words.replace(" ", "-")
    return words if key in _MASS or key in _PLURAL else f"{article(words)} {words}"


def countable(name: str) -> bool:
    """Whether `two ...s` is good English and means two such pictures."""
    words = set(re.split(r"[ -]", name))
    key = name.replace(" ", "-")
    odd = _SOMEBODY.match(name) or key in _MASS or key in _PLURAL or key in _SINGLE or ":" in name
    return not (odd or words & (PLACE_WORDS | NUMBER_WORDS | {"and", "flag"}))


def plural(name: str) -> str:
    """The plural of a countable name; its head noun takes the ending: `faces with tears`."""
    cut = _AFTER_HEAD.search(name)
    head, rest = (name[: cut.start()], name[cut.start() :]) if cut else (name, "")
    before, space, noun = head.rpartition(" ")
    return f"{before}{space}{_plural_noun(noun)}{rest}"


def _plural_noun(noun: str) -> str:
    stem, dash, last = noun.rpartition("-")
    if last in _IRREGULAR:
        return f"{stem}{dash}{_IRREGULAR[last]}"
    if re.search(r"(?:s|x|z|ch|sh)$", noun):
        return f"{noun}es"
    if re.search(r"[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def has_colour_word(name: str) -> bool:
    """Whether the name says a colour itself, as `red apple` does."""
    return not COLOUR_WORDS.isdisjoint(re.split(r"[ -]", name))


def has_place_word(name: str) -> bool:
    """Whether the name holds a word that captions use for places."""
    return not PLACE_WORDS.isdisjoint(re.split(r"[ -]", name))


def sorts(keywords: Iterable[str], name: str) -> tuple[str, ...]:
    """The keywords that say what sort of thing or mood it is, without those in its name."""
    own = name.split()
    return tuple(word for word in keywords if word in _SORTS and word not in own)
