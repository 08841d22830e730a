"""What the bodies of A1111's calls may hold, for the OpenAPI document.

The fields that mean something here, with A1111's defaults; others are taken and left alone.
"""

from collections.abc import Mapping

PICTURE = {"type": "string", "description": "base64 or a data URI"}
WHOLE = {"type": "integer"}
TEXT = {"type": "string"}
SIDE = {"type": "integer", "minimum": 8, "maximum": 4096, "default": 512}
UNIT: Mapping[str, object] = {
    "type": "object",
    "properties": {
        "enabled": {"type": "boolean", "default": True},
        "model": TEXT,
        "module": {"type": "string", "default": "none"},
        "image": PICTURE,
        "weight": {"type": "number", "minimum": -2, "maximum": 4, "default": 1},
        "guidance_start": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
        "guidance_end": {"type": "number", "minimum": 0, "maximum": 1, "default": 1},
        "control_mode": {"type": ["string", "integer"], "default": "Balanced"},
        "resize_mode": {"type": ["string", "integer"], "default": "Crop and Resize"},
        "processor_res": {"type": "integer", "maximum": 4096, "default": -1},
        "threshold_a": {"type": "number", "default": -1},
        "threshold_b": {"type": "number", "default": -1},
        "pixel_perfect": {"type": "boolean", "default": False},
        "save_detected_map": {"type": "boolean", "default": True},
    },
}
_DRAWING: Mapping[str, object] = {
    "prompt": {"type": "string", "maxLength": 20_000, "default": ""},
    "negative_prompt": {"type": "string", "maxLength": 20_000, "default": ""},
    "seed": {"type": "integer", "maximum": 2**64 - 1, "default": -1},
    "subseed": {"type": "integer", "maximum": 2**64 - 1, "default": -1},
    "subseed_strength": {"type": "number", "maximum": 1, "default": 0},
    "seed_resize_from_w": {"type": "integer", "default": -1},
    "seed_resize_from_h": {"type": "integer", "default": -1},
    "sampler_name": {"type": "string", "default": "Euler"},
    "scheduler": {"type": "string", "default": "Automatic"},
    "n_iter": {"type": "integer", "minimum": 1, "maximum": 100, "default": 1},
    "batch_size": {"type": "integer", "minimum": 1, "maximum": 100, "default": 1},
    "steps": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50},
    "cfg_scale": {"type": "number", "minimum": 0, "default": 7},
    "width": SIDE,
    "height": SIDE,
    "tiling": {"type": "boolean", "default": False},
    "denoising_strength": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.75},
    "eta": {"type": "number", "minimum": 0},
    "s_churn": {"type": "number", "minimum": 0},
    "s_noise": {"type": "number", "minimum": 0},
    "refiner_checkpoint": TEXT,
    "refiner_switch_at": {"type": "number", "minimum": 0, "maximum": 1},
    "override_settings": {
        "type": "object",
        "properties": {
            "sd_model_checkpoint": TEXT,
            "sd_vae": TEXT,
            "CLIP_stop_at_last_layers": WHOLE,
            "eta_noise_seed_delta": WHOLE,
            "randn_source": TEXT,
        },
    },
    "alwayson_scripts": {
        "type": "object",
        "properties": {
            "controlnet": {
                "type": "object",
                "properties": {"args": {"type": "array", "items": UNIT, "maxItems": 16}},
            }
        },
    },
    "send_images": {"type": "boolean", "default": True},
    "force_task_id": {"type": "string", "maxLength": 200},
}
_SECOND_PASS: Mapping[str, object] = {
    "enable_hr": {"type": "boolean", "default": False},
    "hr_scale": {"type": "number", "exclusiveMinimum": 0, "default": 2},
    "hr_resize_x": {"type": "integer", "minimum": 0, "default": 0},
    "hr_resize_y": {"type": "integer", "minimum": 0, "default": 0},
    "hr_second_pass_steps": {"type": "integer", "minimum": 0, "maximum": 200, "default": 0},
    "hr_upscaler": TEXT,
    "hr_prompt": TEXT,
    "hr_negative_prompt": TEXT,
    "hr_sampler_name": TEXT,
    "hr_scheduler": TEXT,
}
_SOURCE: Mapping[str, object] = {
    "init_images": {"type": "array", "items": PICTURE, "minItems": 1},
    "resize_mode": {"type": "integer", "minimum": 0, "maximum": 3, "default": 0},
    "mask": PICTURE,
    "mask_blur": {"type": "number", "minimum": 0, "maximum": 256, "default": 4},
    "inpainting_fill": {"type": "integer", "minimum": 0, "maximum": 3, "default": 0},
    "inpaint_full_res": {"type": "boolean", "default": True},
    "inpaint_full_res_padding": {"type": "integer", "minimum": 0, "default": 0},
    "inpainting_mask_invert": {"type": "integer", "minimum": 0, "maximum": 1, "default": 0},
    "include_init_images": {"type": "boolean", "default": False},
}
_LARGER: Mapping[str, object] = {
    "resize_mode": {"type": "integer", "minimum": 0, "maximum": 1, "default": 0},
    "upscaling_resize": {"type": "number", "exclusiveMinimum": 0, "maximum": 16, "default": 2},
    "upscaling_resize_w": {"type": "integer", "minimum": 8, "maximum": 8192, "default": 512},
    "upscaling_resize_h": {"type": "integer", "minimum": 8, "maximum": 8192, "default": 512},
    "upscaling_crop": {"type": "boolean", "default": True},
    "upscaler_1": {"type": "string", "default": "None"},
}


def _object(properties: Mapping[str, object], *required: str) -> dict[str, object]:
    more = {"required": list(required)} if required else {}
    return {"type": "object", "properties": dict(properties), **more}


SCHEMAS: Mapping[str, Mapping[str, object]] = {
    "TextToImage": _object({**_DRAWING, **_SECOND_PASS}),
    "ImageToImage": _object({**_DRAWING, **_SOURCE}, "init_images"),
    "OptionsToSet": _object({"sd_model_checkpoint": TEXT}),
    "TaskToFollow": _object(
        {
            "id_task": {"type": "string", "maxLength": 200},
            "id_live_preview": {"type": "integer", "default": -1},
            "live_preview": {"type": "boolean", "default": True},
        },
        "id_task",
    ),
    "PictureToDetect": _object(
        {
            "controlnet_module": {"type": "string", "default": "none"},
            "controlnet_input_images": {"type": "array", "items": PICTURE, "minItems": 1},
            "controlnet_threshold_a": {"type": "number"},
            "controlnet_threshold_b": {"type": "number"},
        },
        "controlnet_input_images",
    ),
    "PictureToEnlarge": _object({"image": PICTURE, **_LARGER}, "image"),
    "PicturesToEnlarge": _object(
        {
            "imageList": {
                "type": "array",
                "items": _object({"data": PICTURE, "name": TEXT}, "data"),
            },
            **_LARGER,
        },
        "imageList",
    ),
    "PictureToRead": _object({"image": PICTURE}, "image"),
}
