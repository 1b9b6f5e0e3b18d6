"""Values in a ComfyUI graph, wherever they come from: typed in, or linked through primitives, string and switch nodes.

Every walk has a depth limit and takes its steps from the graph's budget, so cycles end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixfs.media.readers.base import as_float, as_int, as_size, lora_tags, positive, unique_loras
from mixfs.media.readers.graph import MAX_DEPTH, MAX_TEXT, Graph, Link, Node
from mixfs.media.types import Lora

_MAX_TEXTS = 60

_ENCODED = (
    ("populated_text",), ("text_g", "text_l"), ("t5xxl", "clip_l", "clip_g", "llama"), ("text",), ("prompt",),
    ("text_positive", "text_negative"), ("caption",), ("tags",), ("wildcard_text",), ("mt5xl", "bert"),
    ("text1", "text2"), ("string",), ("instruction",), ("user_prompt",),
)  # fmt: skip
"""Names under which text encoders take their text, the most telling first. A node gives the first group that it has."""

_SIDES = {
    "positive": ("positive", "positive_prompt", "pos_prompt", "prompt_positive", "text_positive", "positive_text",
                 "cond_positive", "positive_g"),
    "negative": ("negative", "negative_prompt", "neg_prompt", "prompt_negative", "text_negative", "negative_text",
                 "cond_negative", "negative_g"),
}  # fmt: skip

_STRINGS = ("populated_text", "value", "text", "string", "String", "STRING", "Text", "prompt", "positive", "result",
            "wildcard_text", "multiline_text", "text_string", "string_field", "text_0", "inputs", "in", "any",
            "a")  # fmt: skip

_NOT_CONDITIONING = frozenset({"clip", "model", "vae", "control_net", "image", "images", "mask", "style_model",
                               "clip_vision_output", "clip_vision", "pixels", "latent", "samples", "latent_image",
                               "gligen_textbox_model", "width", "height", "strength", "guidance"})  # fmt: skip

_MODEL_NAMES = ("ckpt_name", "unet_name", "base_ckpt_name", "model_name", "gguf_name", "diffusion_name", "checkpoint",
                "ckpt", "unet", "model_path", "checkpoint_name", "diffusion_model", "model_file")  # fmt: skip


_JOINABLE = ("text", "str", "prompt", "part", "input", "a", "b", "c", "d", "prefix", "suffix", "prepend")

_PAIRS = (("text_positive", "text_negative"), ("positive", "negative"), ("positive_prompt", "negative_prompt"))

_BUNDLES = ("pipe", "context", "ctx", "bus", "tuple", "embeds")
"""Parts of the names of inputs that carry many things in one link."""

_BRANCHES = (("on_true", "on_false"), ("tt_value", "ff_value"), ("if_true", "if_false"))

_WRITERS = ("textgenerate", "ollama", "chatgpt", "joycaption", "qwenvl", "llm")
"""Nodes whose text a language model wrote while the graph ran: it is not in the file, and what they were told to do
is no prompt of the picture."""


class Values:
    """Reads one graph. `guidance` is the distilled guidance (Flux) that the last conditioning passed through."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.guidance: float | None = None

    # ---- single values

    def number(self, inputs: Mapping[str, Any], *names: str) -> int | float | None:
        """The first of the inputs that is a number, or is linked to one."""
        for name in names:
            found = self._number(inputs.get(name), name, 0)
            if found is not None:
                return found
        return None

    def _number(self, value: Any, name: str, depth: int) -> int | float | None:
        if isinstance(value, bool):
            return None
        if isinstance(value, int | float):
            return value
        if isinstance(value, str):
            return as_int(value) if value.strip().lstrip("-").isdigit() else as_float(value)
        node = self.graph.node(value)
        if node is None or depth > MAX_DEPTH:
            return None
        for key in (name, "value", "seed", "noise_seed", "int", "INT", "float", "FLOAT", "number", "Number", "Value",
                    "Xi", "steps", "cfg", "a"):  # fmt: skip
            # A node's `steps` is no answer to a question for its seed.
            meant = key == name or ("seed" in key and "seed" in name)
            if key in node.inputs and (meant or key not in ("steps", "cfg", "seed", "noise_seed")):
                found = self._number(node.inputs[key], name, depth + 1)
            else:
                continue
            if found is not None:
                return found
        for _, link in node.links():
            found = self._number(link, name, depth + 1)
            if found is not None:
                return found
        return None

    def branches(self, node: Node) -> list[Any]:
        """What a switch may hand on, what it does hand on first; empty for a node that is no switch."""
        inputs, kind = node.inputs, node.kind.lower()
        for yes, no in _BRANCHES:
            if yes in inputs or no in inputs:
                names = (yes, no) if self._truth(inputs) else (no, yes)
                return [inputs[name] for name in names if name in inputs]
        if not ("switch" in kind or "select" in kind) or "positive" in inputs or "negative" in inputs:
            return []
        index = as_int(self.number(inputs, "select", "index", "Input", "input"))
        chosen = [value for name, value in inputs.items() if _ends_with(name, index)]
        # Without a number the first that is connected is handed on.
        return chosen or [link for name, link in node.links() if name not in ("select", "index", "switch")]

    def _truth(self, inputs: Mapping[str, Any]) -> bool:
        value = first_of(inputs, "switch", "boolean", "cond", "condition", "value", "bool")
        for _ in range(MAX_DEPTH):
            node = self.graph.node(value)
            if node is None:
                break
            value = first_of(node.inputs, "value", "boolean", "bool", "")
        return value if isinstance(value, bool) else True

    def text_of(self, inputs: Mapping[str, Any], *names: str) -> str | None:
        """The first of the inputs that is text with content, or is linked to such."""
        for name in names:
            value = inputs.get(name)
            node = self.graph.node(value)
            text = value if isinstance(value, str) else None
            if node is not None:
                own = node.inputs.get(name)
                text = own if isinstance(own, str) else self.string(value)
            if text and text.strip():
                return text.strip()
        return None

    def string(self, value: Any, depth: int = 0, side: str = "positive") -> str | None:
        """Text, or what a linked string node yields: typed text, joins, switches, reroutes. None when it is unknown."""
        if isinstance(value, str):
            return value[:MAX_TEXT]
        link = value
        node = self.graph.node(link)
        if node is None or depth > MAX_DEPTH:
            return None
        kind = node.kind.lower()
        for pair in _PAIRS:
            if all(name in node.inputs for name in pair):
                # SDXLPromptStyler and its kin: output 0 is the positive text, 1 the negative.
                return self.string(node.inputs[pair[link.slot == 1]], depth + 1, side)
        if "stringfunction" in kind:
            return self._string_function(node, depth)
        if any(word in kind for word in ("concat", "join", "append", "combine", "merge")):
            return self._joined(node, depth, side)
        if any(word in kind for word in _WRITERS):
            return None
        for branch in self.branches(node):
            text = self.string(branch, depth + 1, side)
            if text is not None and text.strip():
                return text
        if "replace" in kind and isinstance(node.inputs.get("find"), str) and node.inputs["find"]:
            text = self.string(first_of(node.inputs, "text", "string"), depth + 1, side)
            new = self.string(node.inputs.get("replace"), depth + 1, side)
            return _replaced(text, node.inputs["find"], new or "") if text else text
        for name in (*_SIDES[side][1:], *_STRINGS) if side == "negative" else (*_STRINGS, *_SIDES[side][1:]):
            if name in node.inputs:
                text = self.string(node.inputs[name], depth + 1, side)
                if text is not None and text.strip():
                    return text
        for name, nested in node.links():
            if name in _NOT_CONDITIONING:
                continue
            text = self.string(nested, depth + 1, side)
            if text is not None:
                return text
        typed = [v for n, v in node.inputs.items() if isinstance(v, str) and ("text" in n or "prompt" in n)]
        return max(typed, key=len) if typed else None

    def _string_function(self, node: Node, depth: int) -> str | None:
        """pysssss' StringFunction: `text_b` and `text_c` come behind `text_a`, or are what is replaced, and by what."""
        a, b, c = (self.string(node.inputs.get(f"text_{n}"), depth + 1) or "" for n in "abc")
        if node.inputs.get("action") == "replace":
            return _replaced(a, b, c) if b else a
        between = ", " if str(node.inputs.get("tidy_tags")).lower() in ("yes", "true") else ""
        return between.join(part for part in (a, b, c) if part)[:MAX_TEXT]

    def _joined(self, node: Node, depth: int, side: str) -> str | None:
        delimiter = first_of(node.inputs, "delimiter", "separator", "delim", "linebreak_addition")
        delimiter = delimiter if isinstance(delimiter, str) else " " if "text" in node.kind.lower() else ""
        delimiter = {"\\n": "\n", "newline": "\n", "comma": ", ", "space": " ", "true": "\n", "false": ""}.get(
            delimiter.lower(), delimiter
        )
        parts: list[str] = []
        for name, value in node.inputs.items():
            if len(parts) >= _MAX_TEXTS:
                break
            lowered = name.lower()
            if not lowered.startswith(_JOINABLE):
                continue
            if lowered in ("delimiter", "clean_whitespace", "action", "tidy_tags", "case", "delim", "default"):
                continue
            part = self.string(value, depth + 1, side)
            if part and part.strip():
                parts.append(part)
        return delimiter.join(parts)[:MAX_TEXT] if parts else None

    # ---- prompts

    def conditioning(self, inputs: Mapping[str, Any], side: str) -> str:
        """The text behind a sampler's positive or negative input. Several texts are joined by line ends."""
        self.guidance = None if side == "positive" else self.guidance
        names = _SIDES[side] if side == "negative" else (*_SIDES[side], "conditioning", "cond1", "cond")
        for name in names:
            value = inputs.get(name)
            if isinstance(value, str):
                return value.strip()
            if isinstance(value, Link):
                texts: list[str] = []
                self._encoded(value, side, texts, set(), 0)
                return "\n".join(dict.fromkeys(text.strip() for text in texts if text.strip()))[:MAX_TEXT]
        for value in bundles(inputs):
            if isinstance(value, Link):
                texts = []
                self._encoded(value, side, texts, set(), 0)
                return "\n".join(dict.fromkeys(text.strip() for text in texts if text.strip()))[:MAX_TEXT]
        return ""

    def _encoded(self, link: Link, side: str, out: list[str], seen: set[tuple[str, int]], depth: int) -> None:
        key = (link.id, link.slot)
        node = self.graph.node(link)
        if node is None or key in seen or depth > MAX_DEPTH or len(out) >= _MAX_TEXTS:
            return
        seen.add(key)
        inputs = node.inputs
        if node.kind == "ConditioningZeroOut" or any(word in node.kind.lower() for word in _WRITERS):
            return
        guidance = as_float(inputs.get("guidance"))
        if guidance is not None and side == "positive" and self.guidance is None:
            self.guidance = guidance
        pair = [name for name in ("positive", "negative") if isinstance(inputs.get(name), Link)]
        if len(pair) == 2:
            # Control nets and the like hand both sides through: output 0 is positive, 1 negative.
            name = pair[link.slot] if link.slot < 2 and not _is_pipe(node) else side
            self._encoded(inputs[name], side, out, seen, depth + 1)
            return
        for name in _SIDES[side]:
            if name in inputs:
                value = inputs[name]
                if isinstance(value, Link) and not self._leads_to_text(value):
                    self._encoded(value, side, out, seen, depth + 1)
                elif (text := self.string(value, side=side)) is not None:
                    out.append(text)
                return
        for branch in self.branches(node):
            before = len(out)
            if isinstance(branch, Link):
                self._encoded(branch, side, out, seen, depth + 1)
            if len(out) > before:
                return
        names = [name for name, _ in node.links() if name.startswith(("cond", "base_cond"))]
        names.sort(key=lambda name: (name.endswith("from"), name))
        for name in names:
            # Boxes of text (GLIGEN) are laid over a prompt: the prompt comes first.
            self._encoded(inputs[name], side, out, seen, depth + 1)
        for group in _ENCODED:
            texts = [self.string(inputs[name], side=side) for name in group if name in inputs]
            if any(name in inputs for name in group):
                found = [text for text in texts if text and text.strip()]
                if found:
                    out.extend(found)
                    return
        if names:
            return
        names = [name for name, _ in node.links() if name not in _NOT_CONDITIONING]
        for name in names:
            self._encoded(inputs[name], side, out, seen, depth + 1)

    def _leads_to_text(self, link: Link) -> bool:
        """A link named `positive` carries text or conditioning; text nodes have no CLIP."""
        node = self.graph.node(link)
        return node is not None and "clip" not in node.inputs and any(name in node.inputs for name in _STRINGS)

    # ---- models

    def model(self, link: object, sampler: Node) -> tuple[str | None, tuple[Lora, ...]]:
        """The model's file name and the LoRAs on the way to it, in the order in which they were put on."""
        loras: list[Lora] = []
        name: str | None = None
        if not isinstance(link, Link):
            link = next(iter(bundles(sampler.inputs)), None)
        seen: set[str] = set()
        node = self.graph.node(link)
        while node is not None and node.id not in seen and len(seen) < MAX_DEPTH * 4:
            seen.add(node.id)
            loras.extend(reversed(self._loras(node, set())))
            own = node.inputs.get("model")
            name = self.text_of(node.inputs, *_MODEL_NAMES) or (own if isinstance(own, str) else None)
            if name is not None and not isinstance(node.inputs.get("model"), Link):
                break
            name = None
            ahead = ("model", "model1", "model_a", "base_model", "ckpt_model", "unet", "MODEL")
            nxt = next((branch for branch in self.branches(node) if isinstance(branch, Link)), None)
            nxt = nxt or next((node.inputs[n] for n in ahead if isinstance(node.inputs.get(n), Link)), None)
            if nxt is None:
                skip = {"clip", "vae", "image", "lora_stack", "positive", "negative", "latent", "ipadapter", "seed"}
                nxt = next((v for n, v in node.links() if n not in skip), None)
            node = self.graph.node(nxt)
        return name, unique_loras(loras[::-1])

    def _loras(self, node: Node, seen: set[str]) -> list[Lora]:
        """What LoRAs a node puts on the model, stacks that it is given included."""
        out: list[Lora] = []
        if node.id in seen or len(seen) > MAX_DEPTH:
            return out
        seen.add(node.id)
        inputs = node.inputs
        for name in ("lora_stack", "optional_lora_stack", "loras_stack", "lora", "prev_lora"):
            stack = self.graph.node(inputs.get(name))
            if stack is not None and "lora" in stack.kind.lower():
                out += self._loras(stack, seen)
        single = None if isinstance(inputs.get("lora"), Link) and out else self.text_of(inputs, "lora_name", "lora")
        if single:
            weight = first_of(inputs, "strength_model", "lora_model_strength", "strength", "model_strength", "weight",
                              "lora_weight", "lora_strength")  # fmt: skip
            out.append(Lora(name=single, weight=self._weight(weight)))
        count = as_int(inputs.get("lora_count")) or 100
        for key, value in inputs.items():
            if isinstance(value, dict) and isinstance(value.get("lora"), str):
                # rgthree's Power Lora Loader: {"on": true, "lora": "x.safetensors", "strength": 1}
                if value.get("on", True):
                    out.append(Lora(name=value["lora"], weight=as_float(value.get("strength"))))
            elif key.startswith("lora_name_") and isinstance(value, str):
                n = key.removeprefix("lora_name_")
                on = str(inputs.get(f"switch_{n}", "On")).lower() not in ("off", "false")
                if on and (as_int(n) or 0) <= count:
                    weight = first_of(inputs, f"model_str_{n}", f"model_weight_{n}", f"lora_wt_{n}", f"strength_{n}")
                    out.append(Lora(name=value, weight=self._weight(weight)))
            elif key in ("lora_01", "lora_02", "lora_03", "lora_04") and isinstance(value, str):
                out.append(Lora(name=value, weight=self._weight(inputs.get(key.replace("lora_", "strength_")))))
        listed = inputs.get("loras")
        for item in listed if isinstance(listed, list) else []:
            if isinstance(item, dict) and isinstance(item.get("name"), str) and item.get("active", True):
                out.append(Lora(name=item["name"], weight=as_float(item.get("strength"))))
        if not out and "lora" in node.kind.lower():
            out += lora_tags(self.string(first_of(inputs, "text", "lora_syntax", "loras_text")))
        return [lora for lora in out[:100] if lora.name.strip() and lora.name.lower() not in ("none", "undefined")]

    def _weight(self, value: Any) -> float | None:
        return as_float(self._number(value, "strength_model", 0))

    # ---- size

    def size(self, inputs: Mapping[str, Any]) -> tuple[int | None, int | None]:
        """Width and height of the empty latent that a sampler begins with, through the nodes between."""
        link = first_of(inputs, "latent_image", "latent", "samples", "latents", "optional_latent", "image_embeds")
        node = self.graph.node(link or next(iter(bundles(inputs)), None))
        for _ in range(MAX_DEPTH):
            if node is None:
                break
            for wide, high in (("width", "height"), ("empty_latent_width", "empty_latent_height")):
                width = positive(as_int(self.number(node.inputs, wide)))
                height = positive(as_int(self.number(node.inputs, high)))
                if width and height:
                    return width, height
            # `1216 x 832   (landscape)`, as nodes with lists of sizes have it.
            listed = as_size(self.text_of(node.inputs, "dimensions", "resolution"))
            if all(listed):
                return listed
            if "pixels" in node.inputs or "image" in node.inputs:
                break
            ways = [*self.branches(node), *(v for n, v in node.links() if "latent" in n or "samples" in n)]
            node = self.graph.node(next(iter(ways or bundles(node.inputs)), None))
        return None, None


def bundles(inputs: Mapping[str, Any]) -> list[Link]:
    """The links that carry many things at once."""
    return [v for name, v in inputs.items() if isinstance(v, Link) and any(word in name.lower() for word in _BUNDLES)]


def _ends_with(name: str, index: int | None) -> bool:
    return index is not None and name != (stem := name.rstrip("0123456789")) and name[len(stem) :] == str(index)


def first_of(inputs: Mapping[str, Any], *names: str) -> Any:
    """The first of the names that is there at all."""
    return next((inputs[name] for name in names if name in inputs), None)


def _replaced(text: str, old: str, new: str) -> str:
    """As str.replace, but a small graph must not make gigabytes of a long text in a long text."""
    return text.replace(old, new, MAX_TEXT // max(1, len(new)) + 1)[:MAX_TEXT]


def _is_pipe(node: Node) -> bool:
    kind = node.kind.lower()
    return any(word in kind for word in ("pipe", "context", "embed"))
