"""The published U-Nets, each as its difference from another.

Sources: the `config.json` files of the models on the Hugging Face hub, and where those say less
than the weights, the configurations of the original repositories.
"""

from dataclasses import replace

from safelight.models.unet import UNetConfig, heads_of_width

# Stable Diffusion 1.1 to 1.5 (CompVis, Runway).
SD15 = UNetConfig()
SD15_INPAINT = replace(SD15, in_channels=9)  # latents 4, mask 1, masked picture 4
PIX2PIX = replace(SD15, in_channels=8)  # latents 4, picture 4 (Brooks et al. 2023)

# Stable Diffusion 2.0 and 2.1 (Stability AI): heads of 64, a wider text encoder.
SD21 = replace(
    SD15, heads=heads_of_width(SD15.channels), context_width=1024, linear_projection=True
)
SD2_INPAINT = replace(SD21, in_channels=9)
SD2_DEPTH = replace(SD21, in_channels=5)  # latents 4, depth 1
SD21_UNCLIP_L = replace(SD21, vector_width=1536, vector_module="class_embedding")
SD21_UNCLIP_H = replace(SD21, vector_width=2048, vector_module="class_embedding")
X4_UPSCALER = replace(
    SD21,
    in_channels=7,  # latents 4, picture 3
    channels=(256, 512, 512, 1024),
    depths=((0, 0), (1, 1), (1, 1), (1, 1)),
    heads=(8, 8, 8, 8),
    cross_only_levels=(0, 1, 2),
    noise_levels=1000,
)

# Stable Diffusion XL (Stability AI): three levels, most of the weight in the deepest.
SDXL = UNetConfig(
    channels=(320, 640, 1280),
    depths=((0, 0), (2, 2), (10, 10)),
    mid_depth=10,
    heads=heads_of_width((320, 640, 1280)),
    context_width=2048,
    linear_projection=True,
    vector_width=2816,  # pooled text 1280, six sizes of 256
)
SDXL_INPAINT = replace(SDXL, in_channels=9)
SDXL_REFINER = replace(
    SDXL,
    channels=(384, 768, 1536, 1536),
    depths=((0, 0), (4, 4), (4, 4), (0, 0)),
    mid_depth=4,
    heads=heads_of_width((384, 768, 1536, 1536)),
    context_width=1280,
    vector_width=2560,  # pooled text 1280, five sizes of 256
)

# Distilled from SDXL: Segmind SSD-1B and Vega, KOALA (Lee et al. 2023, arXiv:2312.04005).
SSD_1B = replace(
    SDXL,
    depths=((0, 0), (2, 2), (4, 4)),
    up_depths=((4, 4, 10), (2, 1, 1), (0, 0, 0)),
    mid_depth=0,
)
VEGA = replace(SDXL, depths=((0, 0), (1, 1), (2, 2)), mid_depth=0)
KOALA_1B = replace(SDXL, depths=((0,), (2,), (6,)), mid_depth=6)
KOALA_700M = replace(SDXL, depths=((0,), (2,), (5,)), mid_depth=None)

# Distilled from SD 1.x by BK-SDM (Kim et al. 2023, arXiv:2305.15798) and by Segmind, whose
# "small" is the paper's "base": it keeps the middle (579,384,964 parameters).
SMALL_SD = replace(SD15, depths=((1,), (1,), (1,), (0,)))
BK_SDM_SMALL = replace(SMALL_SD, mid_depth=None)
TINY_SD = replace(
    SD15, channels=(320, 640, 1280), depths=((1,), (1,), (1,)), heads=(8, 8, 8), mid_depth=None
)
