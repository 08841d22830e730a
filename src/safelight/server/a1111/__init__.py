"""A1111's REST API, as its clients speak it: `/sdapi/v1`, `/controlnet`, `/internal/progress`."""
