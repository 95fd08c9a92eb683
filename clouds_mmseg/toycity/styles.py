"""Appearance of a domain: palettes, camera, sensor and weather."""

from dataclasses import dataclass, field, fields, replace

import numpy as np

from clouds_mmseg.utils.cityscapes import CLASSES
from clouds_mmseg.utils.errors import UserError

Range = tuple[float, float]
RGB = tuple[int, int, int]


def _colours(**kinds):
    return {kind: tuple(values) for kind, values in kinds.items()}


# Saturated, few, the same everywhere: what a game's artist would pick.
GAME = _colours(
    road=[(92, 92, 98), (84, 84, 92)],
    paint=[(250, 250, 250)],
    sidewalk=[(204, 192, 182), (196, 186, 184)],
    kerb=[(226, 222, 216)],
    terrain=[(150, 196, 70), (166, 200, 84)],
    building=[
        (206, 112, 84), (226, 178, 112), (154, 132, 188), (214, 150, 140),
        (120, 160, 190), (232, 208, 160),
    ],
    roof=[(150, 60, 50), (96, 70, 80)],
    window=[(56, 84, 120), (70, 100, 130)],
    door=[(110, 60, 40), (60, 70, 90)],
    shop=[(40, 60, 84), (70, 90, 100)],
    wall=[(150, 146, 128), (134, 138, 140)],
    fence=[(164, 102, 50), (240, 236, 226), (150, 88, 44)],
    pole=[(120, 126, 134), (104, 110, 116)],
    housing=[(28, 30, 34)],
    trunk=[(110, 76, 46)],
    leaf=[(32, 118, 46), (44, 136, 52), (24, 104, 66)],
    sky_top=[(64, 146, 240)],
    sky_low=[(176, 220, 255)],
    cloud=[(255, 255, 255)],
    skin=[(236, 190, 154), (150, 100, 70), (210, 160, 120)],
    cloth=[
        (220, 40, 60), (40, 90, 210), (250, 210, 60), (240, 240, 240),
        (200, 60, 190), (40, 170, 160),
    ],
    trousers=[(40, 50, 90), (70, 60, 60), (30, 30, 40)],
    hair=[(50, 34, 24), (24, 22, 24), (190, 140, 70)],
    car=[
        (214, 30, 36), (30, 70, 200), (245, 245, 245), (30, 32, 38),
        (60, 160, 200), (170, 174, 180),
    ],
    truck=[(236, 130, 30), (120, 74, 40), (230, 150, 60)],
    cab=[(190, 60, 40), (240, 240, 240)],
    bus=[(250, 204, 20), (244, 190, 30)],
    tram=[(20, 150, 90), (30, 164, 120)],
    motorcycle=[(170, 20, 30), (30, 30, 34), (30, 90, 60)],
    bicycle=[(20, 120, 220), (220, 60, 40), (30, 30, 30)],
    glass=[(44, 58, 76)],
    brick=[(160, 80, 60)],
)  # fmt: skip

# What a lens sees in a grey town: muted, many, close to one another.
TOWN = _colours(
    road=[(104, 103, 102), (88, 88, 88), (122, 119, 114), (76, 77, 80)],
    paint=[(206, 204, 196), (190, 188, 178)],
    sidewalk=[(150, 146, 142), (166, 158, 150), (134, 128, 124),
              (160, 140, 130)],
    kerb=[(170, 168, 164), (184, 180, 174)],
    terrain=[(112, 128, 70), (126, 122, 78), (96, 116, 62), (140, 126, 92)],
    building=[
        (150, 132, 116), (176, 168, 156), (132, 94, 80), (120, 122, 126),
        (198, 188, 170), (110, 100, 92), (160, 146, 122), (142, 150, 156),
    ],
    roof=[(98, 70, 62), (72, 70, 72), (116, 84, 70)],
    window=[(58, 64, 70), (90, 102, 112), (44, 50, 58), (120, 130, 136)],
    door=[(70, 58, 50), (50, 56, 58), (92, 80, 70)],
    shop=[(50, 54, 58), (84, 84, 82), (66, 60, 56)],
    wall=[(140, 132, 122), (118, 116, 112), (156, 150, 140), (128, 104, 92)],
    fence=[(96, 82, 68), (70, 74, 74), (150, 148, 142), (110, 96, 84)],
    pole=[(112, 114, 114), (86, 88, 88), (136, 136, 132)],
    housing=[(36, 38, 38), (52, 54, 50)],
    trunk=[(86, 74, 62), (70, 62, 54)],
    leaf=[(62, 84, 44), (78, 96, 54), (52, 72, 46), (92, 98, 52)],
    sky_top=[(168, 184, 204), (146, 174, 206), (196, 204, 212)],
    sky_low=[(220, 226, 232), (232, 232, 228)],
    cloud=[(240, 242, 244)],
    skin=[(206, 166, 140), (130, 92, 72), (176, 136, 110)],
    cloth=[
        (60, 64, 72), (120, 52, 50), (58, 76, 110), (150, 146, 140),
        (40, 42, 44), (110, 100, 70), (170, 150, 60),
    ],
    trousers=[(46, 50, 64), (66, 60, 56), (34, 34, 38), (104, 100, 92)],
    hair=[(52, 42, 36), (30, 28, 28), (130, 110, 90)],
    car=[
        (60, 62, 66), (150, 152, 154), (206, 206, 204), (34, 36, 40),
        (104, 40, 40), (48, 62, 92), (120, 116, 104),
    ],
    truck=[(204, 202, 196), (120, 128, 130), (70, 88, 116), (166, 150, 120)],
    cab=[(180, 178, 172), (60, 80, 120), (130, 50, 44)],
    bus=[(176, 60, 50), (204, 180, 90), (70, 110, 150), (190, 190, 184)],
    tram=[(206, 186, 90), (150, 50, 46), (80, 120, 110), (200, 198, 190)],
    motorcycle=[(46, 46, 50), (110, 40, 40), (40, 54, 80)],
    bicycle=[(60, 62, 66), (120, 60, 50), (50, 80, 100)],
    glass=[(50, 56, 62)],
    brick=[(120, 84, 72)],
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """Appearance of a domain: colours, camera, light and weather.

    Ranges are drawn from uniformly, once per image.

    Attributes:
        name: What the style is called in files and messages.
        palette: RGB choices by kind of surface.
        camera_height: Range in metres.
        focal: Range in widths of the image.
        horizon: Range of the row of the horizon in heights of the image.
        yaw: Range in degrees.
        ambient: Share of light that does not come from the sun, 0 to 1.
        texture: Strength of dirt and grain on surfaces, 0 to 1.
        tint: Random deviation of each object from the palette, 0 to 1.
        shadow: Darkness of the shadows below objects, 0 to 1.
        clouds: Share of the sky under clouds, 0 to 1.
        saturation: Range of the factor on colour against grey.
        contrast: Range of the factor around middle grey.
        exposure: Range of the factor on brightness.
        white: Factors on red, green and blue.
        blur: Range of the width of the lens blur, in 1/1000 of the width.
        noise: Range of the sensor noise's deviation, in 1/255.
        vignette: Darkening of the corners, 0 to 1.
        visibility: Range in metres at which fog leaves 5 % of contrast;
            None without fog.
        fog_colour: RGB of the fog.
        darkness: Range of the share of daylight taken away.
        wetness: Range of the strength of reflections on the ground.
        rain: Range of the number of streaks per 1000 pixels of the image.
        snow_cover: Range of the share of upward surfaces under snow.
        snowfall: Range of the number of flakes per 1000 pixels.
    """

    name: str
    palette: dict[str, tuple[RGB, ...]] = field(
        default_factory=lambda: GAME, repr=False
    )
    camera_height: Range = (1.5, 1.5)
    focal: Range = (0.92, 0.92)
    horizon: Range = (0.42, 0.42)
    yaw: Range = (-1.5, 1.5)
    ambient: float = 0.62
    texture: float = 0.0
    tint: float = 0.0
    shadow: float = 0.45
    clouds: float = 0.25
    saturation: Range = (1.0, 1.0)
    contrast: Range = (1.0, 1.0)
    exposure: Range = (1.0, 1.0)
    white: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur: Range = (0.0, 0.0)
    noise: Range = (0.0, 0.0)
    vignette: float = 0.0
    visibility: Range | None = None
    fog_colour: RGB = (202, 206, 210)
    darkness: Range = (0.0, 0.0)
    wetness: Range = (0.0, 0.0)
    rain: Range = (0.0, 0.0)
    snow_cover: Range = (0.0, 0.0)
    snowfall: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type is not Range and item.name != 'visibility':
                continue
            if value is None:
                continue
            if len(value) != 2 or value[0] > value[1]:
                raise UserError(
                    f'{item.name} of style {self.name!r} must be a range '
                    f'(low, high) with low <= high, got {value!r}'
                )
        missing = sorted(set(GAME) - set(self.palette))
        if missing:
            raise UserError(
                f'palette of style {self.name!r} has no colours for '
                f'{", ".join(missing)}'
            )


_SOURCE = Style('source')
_CLEAR = Style(
    'clear',
    palette=TOWN,
    camera_height=(1.15, 1.4),
    focal=(0.98, 1.1),
    horizon=(0.4, 0.46),
    yaw=(-3.0, 3.0),
    ambient=0.72,
    texture=0.55,
    tint=0.5,
    shadow=0.35,
    clouds=0.6,
    saturation=(0.6, 0.9),
    contrast=(0.85, 1.1),
    exposure=(1.15, 1.5),
    blur=(1.0, 2.2),
    noise=(2.0, 6.0),
    vignette=0.25,
)
STYLES = {
    style.name: style
    for style in (
        _SOURCE,
        _CLEAR,
        replace(
            _CLEAR,
            name='fog',
            visibility=(35.0, 75.0),
            ambient=0.92,
            shadow=0.15,
            clouds=1.0,
            saturation=(0.5, 0.7),
            exposure=(0.95, 1.15),
        ),
        replace(
            _CLEAR,
            name='night',
            darkness=(0.88, 0.94),
            ambient=0.95,
            shadow=0.1,
            clouds=0.0,
            noise=(5.0, 10.0),
            exposure=(0.9, 1.1),
            white=(1.06, 1.0, 0.9),
        ),
        replace(
            _CLEAR,
            name='rain',
            ambient=0.93,
            shadow=0.15,
            clouds=1.0,
            wetness=(0.45, 0.7),
            rain=(4.0, 8.0),
            visibility=(120.0, 200.0),
            fog_colour=(170, 176, 184),
            exposure=(0.75, 0.95),
            saturation=(0.5, 0.75),
            blur=(1.5, 3.5),
            white=(0.96, 1.0, 1.05),
        ),
        replace(
            _CLEAR,
            name='snow',
            ambient=0.92,
            shadow=0.12,
            clouds=1.0,
            snow_cover=(0.7, 0.95),
            snowfall=(4.0, 9.0),
            visibility=(100.0, 180.0),
            fog_colour=(216, 220, 226),
            saturation=(0.5, 0.75),
            exposure=(0.95, 1.1),
            white=(0.98, 1.0, 1.03),
        ),
    )
}


def get_style(style: str | Style) -> Style:
    """The style of that name, or the style itself.

    Args:
        style: A name of :data:`STYLES`, or any style.

    Raises:
        UserError: The name is not known, or it is neither name nor style.
    """
    if isinstance(style, Style):
        return style
    if not isinstance(style, str):
        raise UserError(f'style must be a name or a Style, got {style!r}')
    if style not in STYLES:
        raise UserError(
            f'style {style!r} is not known; the styles are {", ".join(STYLES)}'
        )
    return STYLES[style]


(
    ROAD,
    SIDEWALK,
    BUILDING,
    WALL,
    FENCE,
    POLE,
    LIGHT,
    SIGN,
    VEGETATION,
    TERRAIN,
    SKY,
    PERSON,
    RIDER,
    CAR,
    TRUCK,
    BUS,
    TRAIN,
    MOTORCYCLE,
    BICYCLE,
) = range(len(CLASSES))

RED_LAMP = (255, 50, 30)
WHITE_LAMP = (255, 246, 214)
WARM_LAMP = (255, 206, 120)
AMBER = (255, 160, 30)
BLACK = (22, 22, 24)
WHITE = (246, 246, 246)


class Look:
    """Draws colours for the objects of one image.

    It has a generator of its own, so that two styles give the same objects
    at the same positions in different colours.

    Args:
        style: Palette, and the deviation of colours from it.
        rng: Source of the choices.
    """

    def __init__(self, style: Style, rng: np.random.Generator):
        self.style = style
        self.rng = rng

    def pick(self, kind: str) -> RGB:
        """Return a random RGB colour for a kind of surface."""
        choices = self.style.palette[kind]
        chance, bright, *shift = self.rng.random(5).tolist()
        colour = choices[int(chance * len(choices))]
        tint = self.style.tint
        factor = 1 + tint * 0.44 * (bright - 0.5)
        red, green, blue = (
            int(min(max(c * factor + 28 * tint * (s - 0.5), 4), 252))
            for c, s in zip(colour, shift, strict=True)
        )
        return red, green, blue


def mix(colour: RGB, other: RGB, share: float) -> RGB:
    """RGB between two colours; a share of 0 gives the first."""
    red, green, blue = (
        int(a + (b - a) * share) for a, b in zip(colour, other, strict=True)
    )
    return red, green, blue


def dim(colour: RGB, factor: float) -> RGB:
    """RGB made darker (factor < 1) or lighter."""
    red, green, blue = (min(int(c * factor), 255) for c in colour)
    return red, green, blue
