"""Presidio's detectors of e-mail and IP addresses and detect-secrets' of keys, without models, network or heavy imports.

The detectors are the published ones; here is only how they are loaded and asked. `import presidio_analyzer` would bring
spaCy and torch, its e-mail recognizer would ask the network for public suffixes, and some plugins of detect-secrets
report more or less than the secret.
Guarantee: each answer is a function of the string alone. Cost: 20 to 100 microseconds a string; addresses are remembered.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache, lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from starloom.tasks.kernels.pii import rules as pii_rules

ENTROPY_PLUGINS = ("Base64HighEntropyString", "HexHighEntropyString")
MARKED_PLUGINS = (
    "ArtifactoryDetector", "AWSKeyDetector", "AzureStorageKeyDetector", "CloudantDetector", "DiscordBotTokenDetector",
    "GitHubTokenDetector", "IbmCloudIamDetector", "IbmCosHmacDetector", "JwtTokenDetector", "MailchimpDetector", "NpmDetector",
    "SendGridDetector", "SlackDetector", "SoftlayerDetector", "StripeDetector", "TwilioKeyDetector",
)  # fmt: skip
"""StarCoder's plugins of detect-secrets; without BasicAuth, Keyword and PrivateKey (pii/utils/keys_detection.py)."""


def secrets_on(line: str, plugin: Any) -> list[str]:
    """Return the secrets that a plugin of detect-secrets finds on a line and StarCoder's four filters let pass."""
    from detect_secrets.filters import heuristic

    kind = type(plugin).__name__
    if kind in pii_rules.WHOLE_MATCH_KINDS:
        found = {match.group() for expression in plugin.denylist for match in expression.finditer(line)}
    else:
        found = {secret.secret_value for secret in plugin.analyze_line(filename="", line=line)}
    if rest := pii_rules.SECRET_GOES_ON.get(kind):
        found = {secret + match.group() for secret in found if (match := rest.match(line, line.index(secret) + len(secret)))}
    if kind in pii_rules.SECRET_WITHIN:
        found = {match.group() for secret in found if (match := pii_rules.SECRET_WITHIN[kind].search(secret))}
    return [
        secret
        for secret in sorted(found)
        if not heuristic.is_potential_uuid(secret)
        and not heuristic.is_likely_id_string(secret, line, plugin)
        and not heuristic.is_templated_secret(secret)
        and not heuristic.is_sequential_string(secret)
    ]


@cache
def key_plugins(base64_limit: float, hex_limit: float) -> dict[str, Any]:
    """Return StarCoder's plugins of detect-secrets by name. None of them asks a network whether a key is valid."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes = {plugin.__name__: plugin for plugin in get_mapping_from_secret_type_to_class().values()}
    limits = {"Base64HighEntropyString": {"limit": base64_limit}, "HexHighEntropyString": {"limit": hex_limit}}
    return {name: classes[name](**limits.get(name, {})) for name in (*MARKED_PLUGINS, *ENTROPY_PLUGINS)}


@cache
def pair_scores() -> pii_rules.PairScores:
    """Return the model of letter pairs that detect-secrets ships."""
    from importlib.resources import files

    return pii_rules.pair_scores((files("detect_secrets.filters.gibberish") / "rfc.model").read_text())


@lru_cache(maxsize=65_536)
def email_matches(token: str) -> tuple[tuple[int, int], ...]:
    """Return the spans of a text that Presidio takes for e-mail addresses."""
    return _matches(recognizers()["EMAIL"], token)


@lru_cache(maxsize=65_536)
def ip_matches(token: str) -> tuple[tuple[int, int], ...]:
    """Return the spans of a text that Presidio takes for IP addresses."""
    return _matches(recognizers()["IP_ADDRESS"], token)


def _matches(recognizer: Any, text: str) -> tuple[tuple[int, int], ...]:
    return tuple(sorted((found.start, found.end) for found in recognizer.analyze(text, entities=[])))


@cache
def recognizers() -> dict[str, Any]:
    """Return Presidio's recognizers of e-mail and IP addresses.

    The e-mail recognizer takes the list of public suffixes that tldextract bundles: it asks no network, writes no cache.
    And it looks up the host after the `@`. Presidio looks up the whole match as if it were a URL: it takes
    `//github.com/index#crate@1.0.0` and refuses `host/jane@doe.org`.
    The IP recognizer lacks the pattern of the unspecified address `::`, which is no PII and occurs in every slice.
    """
    import tldextract

    email_recognizer, ip_recognizer = _recognizer_classes()
    suffixes = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())

    class OfflineEmailRecognizer(email_recognizer):  # type: ignore[misc, valid-type]
        def validate_result(self, pattern_text: str) -> bool:
            return bool(suffixes(pattern_text.rpartition("@")[2]).fqdn)

    patterns = [pattern for pattern in ip_recognizer.PATTERNS if pattern.name != "IPv6_unspecified"]
    return {"EMAIL": OfflineEmailRecognizer(name="EmailRecognizer"), "IP_ADDRESS": ip_recognizer(patterns)}


PRESIDIO_MODULES = {
    # module of presidio_analyzer that the two recognizers rest on, in the order of its own __init__: what it defines
    "analysis_explanation": "AnalysisExplanation",
    "recognizer_result": "RecognizerResult",
    "entity_recognizer": "EntityRecognizer",
    "local_recognizer": "LocalRecognizer",
    "pattern": "Pattern",
    "pattern_recognizer": "PatternRecognizer",
}
RECOGNIZER_PACKAGES = ("presidio_analyzer", "presidio_analyzer.predefined_recognizers", "presidio_analyzer.predefined_recognizers.generic")


def _recognizer_classes() -> tuple[Any, Any]:
    """Return Presidio's EmailRecognizer and IpRecognizer, without the language models that its package imports at once.

    `import presidio_analyzer` brings spaCy, thinc and torch: 2 s and 280 MB in each worker, for two lists of regular
    expressions. So its packages stand empty while eight modules of it are imported, and are taken away again: whoever
    imports Presidio later gets the whole.
    """
    generic = RECOGNIZER_PACKAGES[-1]
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "presidio_analyzer"}
    try:
        _stand_in_packages()
        for module, name in PRESIDIO_MODULES.items():
            setattr(sys.modules["presidio_analyzer"], name, getattr(importlib.import_module(f"presidio_analyzer.{module}"), name))
        emails, ips = (importlib.import_module(f"{generic}.{module}") for module in ("email_recognizer", "ip_recognizer"))
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "presidio_analyzer"]:
            del sys.modules[name]
        sys.modules.update(before)
    return emails.EmailRecognizer, ips.IpRecognizer


def _stand_in_packages() -> None:
    """Replace Presidio's packages by empty ones that only know their folder."""
    spec = find_spec("presidio_analyzer")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (folder,) = spec.submodule_search_locations
    for name in RECOGNIZER_PACKAGES:
        package = ModuleType(name)
        package.__path__ = ["/".join([folder, *name.split(".")[1:]])]
        sys.modules[name] = package
