"""The special tokens of StarCoder and StarCoder2, and the metadata template that uses them.

Sources: the order of StarCoder's nineteen is that of bigcode-tokenizer, starcoder/train_bpe_tokenizer.py (an id is
a position in the list). StarCoder2's names are those of arXiv 2402.19173, table 5, and their order that of the
published tokenizer. The buckets and the template are those of bigcode-dataset,
preprocessing/add_content_with_meta.py.
"""

END_OF_TEXT = "<|endoftext|>"
FIM_PREFIX = "<fim_prefix>"
FIM_MIDDLE = "<fim_middle>"
FIM_SUFFIX = "<fim_suffix>"
FIM_PAD = "<fim_pad>"
FOR_PACKING = (END_OF_TEXT, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD)

STARCODER = (
    END_OF_TEXT,
    FIM_PREFIX,
    FIM_MIDDLE,
    FIM_SUFFIX,
    FIM_PAD,
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<empty_output>",
    "<commit_before>",
    "<commit_msg>",
    "<commit_after>",
    "<reponame>",
)

STARCODER2 = (
    END_OF_TEXT,
    FIM_PREFIX,
    FIM_MIDDLE,
    FIM_SUFFIX,
    FIM_PAD,
    "<repo_name>",
    "<file_sep>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
    "<code_to_intermediate>",
    "<intermediate_to_code>",
    "<pr>",
    "<pr_status>",
    "<pr_is_merged>",
    "<pr_base>",
    "<pr_file>",
    "<pr_base_code>",
    "<pr_diff>",
    "<pr_diff_hunk>",
    "<pr_comment>",
    "<pr_event_id>",
    "<pr_review>",
    "<pr_review_state>",
    "<pr_review_comment>",
    "<pr_in_reply_to_review_id>",
    "<pr_in_reply_to_comment_id>",
    "<pr_diff_hunk_comment_line>",
    "<NAME>",
    "<EMAIL>",
    "<KEY>",
    "<PASSWORD>",
)

PRESETS = {"starcoder": STARCODER, "starcoder2": STARCODER2}

# The fields of StarCoder's template in order, each by the token that opens it: repository, path, bucket of stars.
METADATA_FIELDS = ("<reponame>", "<filename>", "<gh_stars>")

# StarCoder2's: the repository, once, and each file.
REPOSITORY_FIELDS = ("<repo_name>", "<file_sep>")

# Largest number of stars of a bucket, and the bucket's name; the last has no upper end.
STAR_BUCKETS = ((0, "0"), (10, "1-10"), (100, "10-100"), (1000, "100-1000"))
MOST_STARS = "1000+"


def star_bucket(stars: int | None) -> str:
    """Return the bucket that StarCoder writes for a number of stars; an unknown number counts as none, as upstream."""
    return next((name for most, name in STAR_BUCKETS if (stars or 0) <= most), MOST_STARS)
