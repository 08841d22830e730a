"""OpenAI's images API: `/v1/images/generations`, `/edits`, `/variations`, and `/v1/models`."""
