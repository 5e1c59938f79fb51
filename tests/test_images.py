import io
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from vdd import images
from vdd._check import UserError
from vdd.images import ImageError, as_picture, image_path, load_image, to_rgb


def saved(tmp_path, image, name="x.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def pixel(path, at=(0, 0)):
    image = load_image(path)
    assert image.mode == "RGB"
    return image.getpixel(at)


@pytest.mark.parametrize(
    ("image", "want"),
    [
        (Image.new("RGB", (2, 2), (10, 20, 30)), (10, 20, 30)),
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 51)), (204, 204, 204)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 0x80FF, np.uint16)), (128, 128, 128)),
    ],
    ids=["rgb", "grey", "one bit", "transparent", "translucent", "grey with alpha", "16 bits"],
)
def test_each_kind_of_png_becomes_opaque_8_bit_rgb(tmp_path, image, want):
    assert pixel(saved(tmp_path, image)) == want


def test_a_transparent_palette_colour_becomes_white(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path, image, transparency=0)
    assert (pixel(path), pixel(path, (1, 0))) == ((255, 255, 255), (0, 0, 255))


def test_cmyk_and_16_bit_tiff_become_rgb(tmp_path):
    red, green, blue = pixel(saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "x.jpg", quality=95))
    assert red > 230
    assert green < 25
    assert blue < 25
    grey = Image.fromarray(np.full((2, 2), 0x40FF, np.uint16))
    assert pixel(saved(tmp_path, grey, "x.tiff")) == (64, 64, 64)


@pytest.mark.parametrize("mode", ["RGBa", "PA", "HSV", "YCbCr"])
def test_rarer_modes_have_an_rgb_form_too(mode):
    white = Image.new("RGBA", (2, 2), "white")
    image = to_rgb((white if mode == "RGBa" else white.convert("P" if mode == "PA" else "RGB")).convert(mode))
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (255, 255, 255))


def test_premultiplied_transparency_becomes_white():
    clear = Image.new("LA", (2, 2), (0, 0))
    assert to_rgb(clear.convert("La")).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(clear.convert("RGBA").convert("RGBa")).getpixel((0, 0)) == (255, 255, 255)


def test_32_bit_levels_and_floats_are_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match="wanted 0 to 65535"):
        to_rgb(Image.fromarray(np.array([[70_000]], np.int32)))
    with pytest.raises(ImageError, match=r"x\.tiff: .*floating-point"):
        load_image(saved(tmp_path, Image.fromarray(np.array([[0.5]], np.float32)), "x.tiff"))


def test_an_exif_orientation_is_applied_and_not_applied_again(tmp_path):
    image = Image.new("RGB", (16, 8), "black")
    image.paste("white", (0, 0, 8, 8))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    path = saved(tmp_path, image, "x.jpg", exif=exif, quality=100)
    upright = load_image(path)
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 2))[0] > 240
    assert upright.getpixel((4, 14))[0] < 15
    assert to_rgb(upright).getexif().get(0x0112) is None


def test_broken_exif_data_does_not_cost_the_image(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (8, 4), "white"), "x.jpg", exif=b"Exif\0\0nonsense")
    assert load_image(path).size == (8, 4)


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("x.gif", "x.webp"):
        path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
        assert pixel(path)[0] > 230


def test_files_that_are_no_whole_image_are_refused_with_path_and_reason(tmp_path):
    whole = saved(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "x.jpg")
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "cut.png").write_bytes(saved(tmp_path, load_image(whole), "y.png").read_bytes()[:2000])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "drawing.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name, reason in {
        "cut.jpg": "cannot be decoded",
        "cut.png": "cannot be decoded",
        "text.jpg": "not an image",
        "empty.jpg": "0 bytes",
        "drawing.jpg": "not an image",
        "absent.jpg": "no such file",
        "": "is a folder",
    }.items():
        with pytest.raises(ImageError, match=reason) as caught:
            load_image(tmp_path / name)
        assert caught.value.path == tmp_path / name
        assert str(tmp_path / name) in str(caught.value)
        assert isinstance(caught.value, UserError)


@given(st.binary(max_size=60), st.sampled_from(["PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP"]), st.integers(0, 80))
def test_hostile_bytes_give_an_image_or_an_image_error(tmp_path, junk, kind, at):
    path = saved(tmp_path, Image.new("RGB", (5, 5), "red"), f"x.{kind}", format=kind)
    body = path.read_bytes()
    path.write_bytes(body[:at] + junk + body[at + len(junk) :])
    try:
        image = load_image(path)
    except ImageError:
        return
    assert image.mode == "RGB"


def test_a_stream_loads_like_a_file(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (4, 5), "red"))
    assert load_image(io.BytesIO(path.read_bytes())).tobytes() == load_image(path).tobytes()
    with pytest.raises(ImageError, match=r"image \(in memory\): not an image"):
        load_image(io.BytesIO(b"text"))


def turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    return saved(tmp_path, Image.linear_gradient("L").convert("RGB").resize((16, 8)), "x.png", exif=exif)


def test_however_a_picture_is_given_it_is_the_same_picture(tmp_path):
    path = turned(tmp_path)
    want = load_image(path)
    assert want.size == (8, 16)
    with Image.open(path) as opened:
        for given in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), opened, want):
            assert as_picture(given).tobytes() == want.tobytes()
        assert opened.size == (16, 8), "the caller's image was changed"


def test_an_opened_file_that_is_cut_short_or_thin_is_an_image_error(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = saved(tmp_path, Image.fromarray(pixels))
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as opened, pytest.raises(ImageError, match=r"\(in memory\): cannot be decoded"):
        as_picture(opened)
    with pytest.raises(ImageError, match="wanted sides within"):
        as_picture(Image.new("RGB", (2000, 1)))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (b"", "0 bytes, so not an image; wanted the content of an image file"),
        (None, "the image is NoneType; wanted a path, a PIL image, or an image file's bytes"),
        (np.zeros((4, 4, 3), np.uint8), "the image is ndarray; wanted a path"),
        (7, "the image is int; wanted a path"),
        ("https://example.org/a.jpg", r"a URL, which is fetched only by vdd.Pipeline\(…, allow_urls=True\)"),
        ("HTTP://example.org/a.jpg", "a URL"),
        ("ftp://example.org/a.jpg", "a URL"),
        ("file:///etc/hostname", "a URL"),
        ("data:image/png;base64,AAAA", "a URL"),
        ("no such.jpg", "no such file; wanted an image file"),
    ],
    ids=str,
)
def test_what_is_no_image_is_a_users_error_that_says_what_was_wanted(given, complaint):
    with pytest.raises(UserError, match=complaint):
        as_picture(given)


@pytest.mark.parametrize("url", ["ftp://example.org/a.jpg", "file:///etc/hostname", "data:image/png;base64,AAAA"])
def test_only_the_web_is_fetched_from(url):
    with pytest.raises(ImageError, match=r"image .*: a URL of the scheme '\w+'; wanted http or https"):
        as_picture(url, allow_urls=True)


def test_a_file_whose_name_looks_like_a_url_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, Image.new("RGB", (4, 5)), "photo:1.png")
    assert as_picture("photo:1.png", allow_urls=True).size == (4, 5)


def bomb(tmp_path, width):
    """A tiny file that says it has `width` × 10,000 pixels."""
    path = tmp_path / "bomb.bmp"
    Image.new("1", (1, 1)).save(path)
    body = bytearray(path.read_bytes())
    body[18:26] = width.to_bytes(4, "little") + (10_000).to_bytes(4, "little")
    path.write_bytes(body)
    return path


@pytest.mark.parametrize("action", ["error", "ignore"])
@pytest.mark.parametrize("width", [10_000, 20_000])  # Pillow warns of the first and refuses the second
def test_decompression_bombs_are_refused_whatever_the_warning_filter(tmp_path, width, action):
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        filters = list(warnings.filters)
        with pytest.raises(ImageError, match="pixels"):
            load_image(bomb(tmp_path, width))
        assert warnings.filters == filters
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_the_limit_holds_where_the_caller_has_switched_off_pillows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match="20000 × 10000 pixels; wanted at most 89,478,485"):
        load_image(bomb(tmp_path, 20_000))


def test_an_image_of_exactly_the_limit_is_taken(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (4, 5)))
    monkeypatch.setattr(images, "MAX_PIXELS", 20)
    assert load_image(path).size == (4, 5)
    monkeypatch.setattr(images, "MAX_PIXELS", 19)
    with pytest.raises(ImageError, match="at most 19"):
        load_image(path)


def test_an_image_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "cut short")))
    assert (error.path, error.reason, str(error)) == ("a.jpg", "cut short", "image a.jpg: cut short")


def test_image_names_stay_inside_their_folder(tmp_path):
    assert image_path(tmp_path, "val2014/a..b.jpg") == tmp_path / "val2014" / "a..b.jpg"
    for name in (
        "/etc/passwd",
        "../a.jpg",
        "a/../../b.jpg",
        "..",
        "C:\\a.jpg",
        "\\a.jpg",
        "a\\..\\..\\b",
        "",
        " ",
        "a\0",
    ):
        with pytest.raises(ImageError, match="wanted"):
            image_path(tmp_path, name)


# Writing
