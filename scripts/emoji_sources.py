"""The packages, styles, licences and hand-made choices that `emoji_pairs.py` builds from."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Package:
    """One version of an npm package; `sha512` is what the registry calls its integrity."""

    name: str
    version: str
    sha512: str

    @property
    def file(self) -> str:
        """The name that `npm pack` gives to it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True, slots=True)
class Style:
    """One way of drawing, and who is to be thanked for it."""

    name: str
    words: tuple[str, ...]
    family: str
    package: Package
    licence: str
    credit: str


WORDS = Package(
    "emojibase-data",
    "17.0.0",
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
MORE_WORDS = Package(
    "emojilib",
    "4.0.3",
    "KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
)
STYLES = (
    Style(
        "fluent-3d",
        ("3d", "glossy 3d"),
        "fluent",
        Package(
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        ),
        "MIT",
        "Microsoft Corporation (Fluent Emoji), packed by LobeHub",
    ),
    Style(
        "fluent-color",
        ("gradient", "soft gradient"),
        "fluent",
        Package(
            "@iconify-json/fluent-emoji",
            "1.2.7",
            "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        ),
        "MIT",
        "Microsoft Corporation (Fluent Emoji)",
    ),
    Style(
        "fluent-flat",
        ("flat",),
        "fluent",
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        ),
        "MIT",
        "Microsoft Corporation (Fluent Emoji)",
    ),
    Style(
        "noto",
        ("noto",),
        "noto",
        Package(
            "@iconify-json/noto",
            "1.2.9",
            "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        ),
        "Apache-2.0",
        "Google Inc (Noto Emoji)",
    ),
    Style(
        "noto-v1",
        ("classic noto",),
        "noto-v1",
        Package(
            "@iconify-json/noto-v1",
            "1.2.5",
            "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        ),
        "Apache-2.0",
        "Google Inc (Noto Emoji, first design)",
    ),
    Style(
        "twemoji",
        ("twemoji",),
        "twemoji",
        Package(
            "@iconify-json/twemoji",
            "1.2.5",
            "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        ),
        "CC-BY-4.0",
        "Twitter, Inc and other contributors (Twemoji, jdecked)",
    ),
    Style(
        "emojitwo",
        ("emojitwo",),
        "emojitwo",
        Package(
            "@iconify-json/emojione",
            "1.2.3",
            "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        ),
        "CC-BY-4.0",
        "Emoji One 2.3 / EmojiTwo",
    ),
    Style(
        "fxemoji",
        ("firefox",),
        "fxemoji",
        Package(
            "@iconify-json/fxemoji",
            "1.2.2",
            "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        ),
        "Apache-2.0",
        "Mozilla (Firefox OS Emoji)",
    ),
)
# Short names that sets of icons use, in the order in which they are trusted.
SHORTCODES = ("emojibase", "github", "iamcal", "joypixels", "cldr", "emojibase-legacy")
# Chosen by eye where a name would take another drawing.
INSTEAD: Mapping[str, Mapping[str, str]] = {
    "fxemoji": {"1F444": "lips", "1F576": "darksunglasses", "1F608": "imp"},
}
# Left out by eye: the name fits and the drawing does not, such as a revolver called water pistol or
# a ribbon called bow. The last four rows are sound, but the published shards lack them.
LEFT_OUT: Mapping[str, frozenset[str]] = {
    "emojitwo": frozenset({"1F4BB", "1F52B", "1F574", "2705", "2B55"}),
    "fxemoji": frozenset(
        {
            *("1F46B", "1F47F", "1F48F", "1F52B", "1F53C", "1F53D", "1F621", "1F647", "1F68B"),
            *("1FA9F", "2328", "1F199", "1F3F9", "1F60E"),
        }
    ),
    "noto-v1": frozenset({"1F52B", "1F51B", "1F468-200D-1F469-200D-1F466"}),
    "noto": frozenset({"1F44D", "1F4B7", "1F51B"}),
    "twemoji": frozenset({"1F51B"}),
    "fluent-flat": frozenset({"1F445"}),
}
