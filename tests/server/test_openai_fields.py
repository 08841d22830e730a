"""What OpenAI's clients send becomes a native request, and what has no meaning is said."""

import pytest

from safelight.server.openai.errors import Wrong, error_body
from safelight.server.openai.fields import wanted, with_mask, with_picture
from safelight.tasks.request import Request

APPLE = {"prompt": "an apple"}


def test_a_bare_prompt_is_one_picture_as_png_in_the_answer() -> None:
    want = wanted("generate", APPLE)
    assert want.settings == {"prompt": "an apple", "count": 1}
    assert (want.form, want.quality, want.stream, want.partials, want.link) == (
        "png",
        None,
        False,
        0,
        False,
    )
    assert want.notes == ()


def test_fields_of_the_api_and_settings_of_ours_stand_beside_one_another() -> None:
    want = wanted(
        "generate",
        APPLE
        | {"n": 3, "size": "256x128", "seed": 7, "negative_prompt": "worms", "steps": 4}
        | {"guidance": {"rescale": 0.5}, "hires.scale": 2},
    )
    request = Request.parse(want.settings)
    assert (request.count, request.width, request.height, request.seed) == (3, 256, 128, 7)
    assert (request.negative_prompt, request.steps) == ("worms", 4)
    assert request.guidance.rescale == 0.5 and request.hires is not None


def test_a_form_says_numbers_truths_and_groups_as_text() -> None:
    want = wanted(
        "edit",
        APPLE
        | {"n": "2", "stream": "false", "output_format": "webp", "output_compression": "40"}
        | {"seed": "7", "guidance": '{"rescale": 0.25}', "source.strength": "0.5"},
    )
    request = Request.parse(with_picture("edit", want.settings, "a" * 64))
    assert (request.count, request.seed, want.form, want.quality) == (2, 7, "webp", 40)
    assert request.source is not None and request.source.strength == 0.5
    assert request.guidance.rescale == 0.25


def test_names_of_openai_s_models_stand_for_the_server_s_own() -> None:
    for name in ("gpt-image-1", "dall-e-3", "gpt-image-1-mini", "chatgpt-image-latest"):
        assert "model" not in wanted("generate", APPLE | {"model": name}).settings
    assert wanted("generate", APPLE | {"model": "sd15"}).settings["model"] == "sd15"


def test_what_has_no_meaning_here_is_said_and_bookkeeping_is_not() -> None:
    want = wanted("generate", APPLE | {"quality": "hd", "style": "vivid", "user": "u"})
    assert want.notes == ("quality, style: without a meaning here, left out.",)
    assert set(want.settings) == {"prompt", "count"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a" * 32_001}, "prompt"),
        (APPLE | {"n": 0}, "n"),
        (APPLE | {"n": 11}, "n"),
        (APPLE | {"n": True}, "n"),
        (APPLE | {"n": 1.5}, "n"),
        (APPLE | {"size": "large"}, "size"),
        (APPLE | {"response_format": "gif"}, "response_format"),
        (APPLE | {"output_format": "svg"}, "output_format"),
        (APPLE | {"output_compression": 101}, "output_compression"),
        (APPLE | {"background": "transparent"}, "background"),
        (APPLE | {"partial_images": 4, "stream": True}, "partial_images"),
        (APPLE | {"partial_images": 1}, "partial_images"),
        (APPLE | {"stream": True, "n": 2}, "n"),
        (APPLE | {"stream": "maybe"}, "stream"),
        (APPLE | {"guidance": "{"}, "guidance"),
        (APPLE | {"guidance": "[" * 100_000}, "guidance"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_its_name(
    fields: dict[str, object], param: str
) -> None:
    with pytest.raises(Wrong) as caught:
        wanted("generate", fields)
    assert caught.value.param == param and caught.value.status == 400


def test_a_variation_needs_no_prompt_and_keeps_the_layout() -> None:
    request = Request.parse(with_picture("vary", wanted("vary", {}).settings, "a" * 64))
    assert request.prompt == "" and request.source is not None
    assert 0 < request.source.strength < 0.75


def test_transparent_places_of_a_mask_are_painted() -> None:
    settings = with_mask(with_picture("edit", wanted("edit", APPLE).settings, "a" * 64), "b" * 64)
    request = Request.parse(settings)
    assert request.mask is not None
    assert (request.mask.picture, request.mask.reading) == ("b" * 64, "transparent")


def test_errors_have_the_four_names_that_clients_read() -> None:
    told = error_body("no", 404, "unknown", "model")["error"]
    assert told == {
        "message": "no",
        "type": "not_found_error",
        "param": "model",
        "code": "unknown",
    }
    assert error_body("no", 422, "x")["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    assert error_body("no", 500, "x")["error"]["type"] == "server_error"  # type: ignore[index]
