"""Options that hold a group of settings in one text."""

import pytest

from safelight.cli.groups import control, embedding, hypernetwork, image_prompt, lora, reference
from safelight.errors import RequestError


def test_a_control_takes_its_settings_and_hands_the_rest_to_its_preprocessor() -> None:
    assert control("b,c.safetensors,picture=p.png,preprocessor=canny,low=50,x=true,scale=0.5") == {
        "net": "b,c.safetensors",
        "picture": "p.png",
        "preprocessor": "canny",
        "scale": "0.5",
        "options": {"low": 50, "x": True},
    }


def test_an_image_prompt_takes_several_pictures() -> None:
    found = image_prompt("ip.bin,picture=a.png,picture=b.png,scale=.6")
    assert found == {"adapter": "ip.bin", "pictures": ["a.png", "b.png"], "scale": ".6"}


def test_a_reference_is_a_picture() -> None:
    assert reference("a.png,fidelity=1") == {"picture": "a.png", "fidelity": "1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.pt", {"file": "a.pt"}),
        ("a.pt:0.8", {"file": "a.pt", "weight": "0.8"}),
        ("a.pt:-1:.5", {"file": "a.pt", "weight": "-1", "text_weight": ".5"}),
        (r"C:\loras\a.pt:1", {"file": r"C:\loras\a.pt", "weight": "1"}),
        (r"C:\loras\a.pt", {"file": r"C:\loras\a.pt"}),
        ("a:b.pt:2", {"file": "a:b.pt", "weight": "2"}),
        (
            "a.pt:0.8,start=0.2,blocks=IN04:0.5,M00:0,dora=base",
            {
                "file": "a.pt",
                "weight": "0.8",
                "start": "0.2",
                "blocks": "IN04:0.5,M00:0",
                "dora": "base",
            },
        ),
        ("a.pt,tag=x", {"file": "a.pt", "tag": "x"}),
    ],
)
def test_a_lora_has_its_weights_behind_colons(text: str, expected: dict[str, object]) -> None:
    assert lora(text) == expected


def test_words_and_hypernetworks_are_files_with_settings() -> None:
    assert embedding("a.pt,word=ugly hands") == {"file": "a.pt", "word": "ugly hands"}
    assert hypernetwork("a.pt:0.5,end=0.7") == {"file": "a.pt", "weight": "0.5", "end": "0.7"}


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (control, "", "must begin with a file"),
        (control, "scale=1", "must begin with a file"),
        (control, "a.pt,scale=1,scale=2", "given twice"),
        (control, "a.pt,sclae=1", "no setting 'sclae'"),
        (image_prompt, "a.pt", "needs a picture"),
        (image_prompt, "a.pt,picture=b.png,mode=1", "no setting 'mode'"),
        (reference, "a.png,scale=1", "no setting 'scale'"),
        (lora, "a.pt:1,weight=2", "weight is given twice"),
        (lora, "weight=2", "must begin with a file"),
        (hypernetwork, "a.pt:1:0.5", "no setting 'text_weight'"),
        (embedding, "a.pt,tag=x", "no setting 'tag'"),
    ],
)
def test_what_cannot_be_read_is_said(read, text: str, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RequestError, match=said):
        read(text)
