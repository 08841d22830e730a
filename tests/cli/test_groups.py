"""Options that hold a group of settings in one text."""

import pytest

from safelight.cli.groups import control, image_prompt, reference
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
    ("read", "text", "said"),
    [
        (control, "", "must begin with a file"),
        (control, "scale=1", "must begin with a file"),
        (control, "a.pt,scale=1,scale=2", "given twice"),
        (control, "a.pt,sclae=1", "no setting 'sclae'"),
        (image_prompt, "a.pt", "needs a picture"),
        (image_prompt, "a.pt,picture=b.png,mode=1", "no setting 'mode'"),
        (reference, "a.png,scale=1", "no setting 'scale'"),
    ],
)
def test_what_cannot_be_read_is_said(read, text: str, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RequestError, match=said):
        read(text)
