"""Sample pictures with the metadata that each generator really writes: for `tools/start`, demonstrations and tests.

The pictures are drawn (a sky, a sun, hills), the same bytes every time with the same Pillow.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = ("a1111", "comfyui", "invokeai", "swarmui", "fooocus", "novelai")
WIDTH, HEIGHT = 768, 512

_PALETTES = {
    "a1111": ((38, 70, 130), (250, 190, 130), (44, 84, 70)),
    "comfyui": ((22, 20, 60), (200, 90, 150), (40, 30, 70)),
    "invokeai": ((90, 160, 220), (230, 240, 250), (70, 120, 70)),
    "swarmui": ((250, 150, 90), (255, 225, 170), (120, 60, 50)),
    "fooocus": ((60, 120, 130), (220, 235, 210), (30, 70, 80)),
    "novelai": ((120, 110, 190), (250, 200, 220), (80, 60, 120)),
}


def make_sample(kind: str) -> tuple[str, bytes]:
    """A file name and the bytes of a 768 x 512 picture with one generator's metadata. KeyError for other kinds."""
    name, write = {
        "a1111": ("00017-1234567890.png", _a1111),
        "comfyui": ("ComfyUI_00042_.png", _comfyui),
        "invokeai": ("3f2c9a6e-mountain-lake.png", _invokeai),
        "swarmui": ("2025-12-08-desert-dunes.jpg", _swarmui),
        "fooocus": ("2025-12-08_10-15-00_4711.png", _fooocus),
        "novelai": ("lighthouse at dusk s-880673757.png", _novelai),
    }[kind]
    return name, write(draw_landscape(kind))


def draw_landscape(kind: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image:
    """A sky of two colours, a sun, and four ranges of hills; which ones, the kind's name decides."""
    from PIL import Image, ImageDraw

    top, bottom, ground = _PALETTES.get(kind, _PALETTES["a1111"])
    width, height = size
    chance = random.Random(int.from_bytes(hashlib.sha256(kind.encode()).digest()[:8], "big"))
    column = Image.new("RGB", (1, height))
    for y in range(height):
        column.putpixel((0, y), _mix(top, bottom, y / height))
    picture = column.resize(size)
    draw = ImageDraw.Draw(picture)
    sun_x, sun_y, r = width * chance.uniform(0.2, 0.8), height * chance.uniform(0.25, 0.5), height * 0.09
    draw.ellipse((sun_x - r, sun_y - r, sun_x + r, sun_y + r), fill=_mix(bottom, (255, 255, 240), 0.7))
    for layer in range(4):
        depth = (layer + 1) / 4
        phases = [chance.uniform(0, math.tau) for _ in range(3)]
        base = height * (0.55 + 0.11 * layer)
        ridge = [
            (float(px), base - height * 0.07 * sum(math.sin(px / width * (2 + 3 * i) * 2 + p) / (i + 1)
                                            for i, p in enumerate(phases)))
            for px in range(0, width + 8, 8)
        ]  # fmt: skip
        draw.polygon([(0.0, float(height)), *ridge, (float(width), float(height))], fill=_mix(bottom, ground, depth))
    return picture


def _mix(a: tuple[int, int, int], b: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


# ---- containers


def png_bytes(picture: Image, texts: dict[str, str], *, itxt: bool = False) -> bytes:
    """A PNG with text chunks: iTXt where asked for or where Latin-1 is not enough, as Pillow's users write them."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in texts.items():
        if itxt:
            info.add_itxt(key, text)
        else:
            info.add_text(key, text)
    out = io.BytesIO()
    picture.save(out, format="PNG", pnginfo=info)
    return out.getvalue()


def exif_bytes(main: dict[int, str | int], user_comment: bytes | None = None) -> bytes:
    """An EXIF block, big-endian: ASCII tags (and SHORTs) of IFD0, and a UserComment with its eight bytes of code."""
    entries: list[tuple[int, int, int, bytes]] = []
    for tag, value in sorted(main.items()):
        if isinstance(value, int):
            entries.append((tag, 3, 1, struct.pack(">HH", value, 0)))
        else:
            data = value.encode() + b"\x00"
            entries.append((tag, 2, len(data), data))
    count = len(entries) + (user_comment is not None)
    end = 8 + 2 + 12 * count + 4
    body, blobs = bytearray(), bytearray()
    for tag, kind, n, data in entries:
        if len(data) <= 4:
            body += struct.pack(">HHI", tag, kind, n) + data.ljust(4, b"\x00")
        else:
            body += struct.pack(">HHII", tag, kind, n, end + len(blobs))
            blobs += data + b"\x00" * (len(data) & 1)
    if user_comment is not None:
        sub = end + len(blobs)
        body += struct.pack(">HHII", 0x8769, 4, 1, sub)
        blobs += struct.pack(">HHHIII", 1, 0x9286, 7, len(user_comment), sub + 18, 0) + user_comment
    return b"MM\x00*\x00\x00\x00\x08" + struct.pack(">H", count) + bytes(body) + b"\x00" * 4 + bytes(blobs)


def unicode_comment(text: str, *, little: bool = False) -> bytes:
    """An EXIF UserComment in UTF-16: big-endian as A1111's piexif writes it, little-endian as SwarmUI does."""
    return b"UNICODE\x00" + text.encode("utf-16-le" if little else "utf-16-be")


def jpeg_bytes(picture: Image, exif: bytes) -> bytes:
    out = io.BytesIO()
    picture.convert("RGB").save(out, format="JPEG", quality=90, exif=b"Exif\x00\x00" + exif)
    return out.getvalue()


def webp_bytes(picture: Image, exif: bytes, *, lossless: bool = False) -> bytes:
    out = io.BytesIO()
    picture.save(out, format="WEBP", quality=85, lossless=lossless, exif=exif, exact=lossless)
    return out.getvalue()


# ---- what each generator writes

A1111_TEXT = (
    "alpine valley at sunrise, morning mist, golden light, <lora:detail_tweaker:0.6>\n"
    "highly detailed, 35mm photograph\n"
    "Negative prompt: lowres, blurry, watermark, text\n"
    "Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 1234567890, Size: 768x512, "
    "Model hash: 15012c538f, Model: realisticVisionV51_v51VAE, Clip skip: 2, "
    'Lora hashes: "detail_tweaker: 7c6bad76eb54", Version: v1.10.1'
)


def _a1111(picture: Image) -> bytes:
    return png_bytes(picture, {"parameters": A1111_TEXT})


def comfyui_graphs() -> tuple[dict[str, Any], dict[str, Any]]:
    """The API graph and the UI graph of a plain text-to-image run with a LoRA."""
    api: dict[str, Any] = {
        "3": {"class_type": "KSampler", "inputs": {
            "seed": 156680208700286, "steps": 24, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras",
            "denoise": 1.0, "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]},
            "_meta": {"title": "KSampler"}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"},
              "_meta": {"title": "Load Checkpoint"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 768, "height": 512, "batch_size": 1},
              "_meta": {"title": "Empty Latent Image"}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {
            "text": "violet night over rolling hills, huge moon, synthwave poster", "clip": ["10", 1]},
            "_meta": {"title": "CLIP Text Encode (Prompt)"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "text, watermark, people", "clip": ["10", 1]},
              "_meta": {"title": "CLIP Text Encode (Prompt)"}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]},
              "_meta": {"title": "VAE Decode"}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]},
              "_meta": {"title": "Save Image"}},
        "10": {"class_type": "LoraLoader", "inputs": {
            "lora_name": "synthwave_xl.safetensors", "strength_model": 0.8, "strength_clip": 0.8, "model": ["4", 0],
            "clip": ["4", 1]}, "_meta": {"title": "Load LoRA"}},
    }  # fmt: skip
    widgets = {"3": [156680208700286, "randomize", 24, 7.0, "dpmpp_2m", "karras", 1.0],
               "4": ["sd_xl_base_1.0.safetensors"], "5": [768, 512, 1], "6": [api["6"]["inputs"]["text"]],
               "7": [api["7"]["inputs"]["text"]], "8": [], "9": ["ComfyUI"],
               "10": ["synthwave_xl.safetensors", 0.8, 0.8]}  # fmt: skip
    kinds = {"model": "MODEL", "clip": "CLIP", "vae": "VAE", "positive": "CONDITIONING", "negative": "CONDITIONING",
             "latent_image": "LATENT", "samples": "LATENT", "images": "IMAGE"}  # fmt: skip
    nodes: list[dict[str, Any]] = []
    links: list[list[Any]] = []
    for order, (key, node) in enumerate(api.items()):
        ports: list[dict[str, Any]] = []
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                links.append([len(links) + 1, int(value[0]), value[1], int(key), len(ports), kinds[name]])
                ports.append({"name": name, "type": kinds[name], "link": len(links)})
        nodes.append({
            "id": int(key), "type": node["class_type"], "pos": [100 + 320 * (order % 4), 120 + 260 * (order // 4)],
            "size": [300, 200], "flags": {}, "order": order, "mode": 0, "inputs": ports, "outputs": [],
            "properties": {"Node name for S&R": node["class_type"]}, "widgets_values": widgets[key]})  # fmt: skip
    ui = {"last_node_id": 10, "last_link_id": len(links), "nodes": nodes, "links": links, "groups": [], "config": {},
          "extra": {}, "version": 0.4}  # fmt: skip
    return api, ui


def _comfyui(picture: Image) -> bytes:
    api, ui = comfyui_graphs()
    return png_bytes(picture, {"prompt": json.dumps(api), "workflow": json.dumps(ui)})


INVOKEAI_METADATA: dict[str, Any] = {
    "generation_mode": "sdxl_txt2img", "positive_prompt": "mountain lake in spring, clear water, wide view",
    "negative_prompt": "fog, boats, text", "width": 768, "height": 512, "seed": 3951921344, "rand_device": "cpu",
    "cfg_scale": 6.0, "cfg_rescale_multiplier": 0.0, "steps": 30, "scheduler": "dpmpp_2m_k", "seamless_x": False,
    "seamless_y": False,
    "model": {"key": "179d02bf-f5e5-4b5b-a4df-f386f3e70e93", "hash": "blake3:7c1631b481e1566448f49db7e3b67a8a",
              "name": "juggernautXL_v9", "base": "sdxl", "type": "main"},
    "loras": [{"model": {"key": "5d2a", "hash": "blake3:11", "name": "nature_xl", "base": "sdxl", "type": "lora"},
               "weight": 0.75}],
    "app_version": "5.6.0",
}  # fmt: skip


def _invokeai(picture: Image) -> bytes:
    return png_bytes(picture, {"invokeai_metadata": json.dumps(INVOKEAI_METADATA)}, itxt=True)


SWARMUI_DATA: dict[str, Any] = {
    "sui_image_params": {
        "prompt": "desert dunes under a burning sky, long shadows", "negativeprompt": "camels, tents, watermark",
        "model": "sd_xl_base_1.0", "seed": 697543491, "steps": 20, "cfgscale": 7.0, "aspectratio": "3:2", "width": 768,
        "height": 512, "sampler": "euler_ancestral", "scheduler": "karras", "loras": ["dunes_xl"],
        "loraweights": ["0.9"],
        "automaticvae": True, "swarm_version": "0.9.7.4"},
    "sui_extra_data": {"date": "2025-12-08", "prep_time": "0.00 sec", "generation_time": "6.44 sec"},
    "sui_models": [{"name": "sd_xl_base_1.0.safetensors", "param": "model", "hash": "0x31e35c80fc4829d14f90153f"}],
}  # fmt: skip


def _swarmui(picture: Image) -> bytes:
    text = json.dumps(SWARMUI_DATA, indent=2)
    return jpeg_bytes(picture, exif_bytes({}, unicode_comment(text, little=True)))


FOOOCUS_DATA: dict[str, Any] = {
    "adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "juggernautXL_v8Rundiffusion", "base_model_hash": "aeb7e9e689",
    "clip_skip": 2, "full_negative_prompt": ["low quality", "people"],
    "full_prompt": ["a quiet bay in teal light, cinematic still", "a quiet bay in teal light, intricate, elegant"],
    "guidance_scale": 4, "loras": [["sd_xl_offset_example-lora_1.0", 0.1, "4852686128"]], "metadata_scheme": "fooocus",
    "negative_prompt": "people", "performance": "Speed", "prompt": "a quiet bay in teal light",
    "prompt_expansion": "a quiet bay in teal light, intricate, elegant", "refiner_model": "None", "refiner_switch": 0.5,
    "resolution": "(768, 512)", "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "seed": "4711471147114711",
    "sharpness": 2, "steps": 30, "styles": "['Fooocus V2', 'Fooocus Sharp']", "vae": "Default (model)",
    "version": "Fooocus v2.5.5",
}  # fmt: skip


def _fooocus(picture: Image) -> bytes:
    return png_bytes(picture, {"parameters": json.dumps(FOOOCUS_DATA), "fooocus_scheme": "fooocus"})


NOVELAI_COMMENT: dict[str, Any] = {
    "prompt": "lighthouse at dusk, violet sea, no humans, very aesthetic, masterpiece", "steps": 28, "height": 512,
    "width": 768, "scale": 5.0, "uncond_scale": 0.0, "cfg_rescale": 0.0, "seed": 880673757, "n_samples": 1,
    "noise_schedule": "karras", "sampler": "k_euler_ancestral", "sm": False, "uc": "blurry, lowres, text",
    "v4_prompt": {"caption": {"base_caption": "lighthouse at dusk, violet sea, no humans, very aesthetic, masterpiece",
                              "char_captions": []}, "use_coords": False, "use_order": True},
    "v4_negative_prompt": {"caption": {"base_caption": "blurry, lowres, text", "char_captions": []}},
    "request_type": "PromptGenerateRequest",
}  # fmt: skip


def novelai_texts() -> dict[str, str]:
    """NovelAI's PNG text fields, in its order."""
    return {
        "Title": "NovelAI generated image",
        "Description": NOVELAI_COMMENT["prompt"],
        "Software": "NovelAI",
        "Source": "NovelAI Diffusion V4.5 C02D4F98",
        "Generation time": "2.584513268151414",
        "Comment": json.dumps(NOVELAI_COMMENT),
    }


def _novelai(picture: Image) -> bytes:
    return png_bytes(picture, novelai_texts())


def with_stealth(picture: Image, text: str, *, compressed: bool = True) -> Image:
    """The picture with text hidden in the lowest bits of its alpha, column by column, as NovelAI and A1111 hide it."""
    import gzip

    from PIL import Image

    body = gzip.compress(text.encode(), mtime=0) if compressed else text.encode()
    data = (b"stealth_pngcomp" if compressed else b"stealth_pnginfo") + (len(body) * 8).to_bytes(4, "big") + body
    width, height = picture.size
    if len(data) * 8 > width * height:
        raise ValueError("the picture is too small for the text")
    bits = bin(int.from_bytes(data, "big"))[2:].zfill(len(data) * 8)
    alpha = bytes(254 + (bit == "1") for bit in bits) + b"\xff" * (width * height - len(bits))
    band = Image.frombytes("L", (height, width), alpha).transpose(Image.Transpose.TRANSPOSE)
    out = picture.convert("RGBA")
    out.putalpha(band)
    return out
