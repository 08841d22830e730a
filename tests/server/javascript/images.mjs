// Calls a server's images with OpenAI's own client: `node images.mjs ADDRESS`.
// Prints what it was given and which errors it raised, as one JSON object, for the test to look at.
import OpenAI, { toFile } from "openai";

const baseURL = process.argv[2];
const client = new OpenAI({ apiKey: "unused", baseURL, maxRetries: 0, timeout: 20000 });
const png = Buffer.from(process.argv[3], "base64");
const hole = Buffer.from(process.argv[4], "base64");
const picture = () => toFile(png, "photo.png", { type: "image/png" });

// the class and status of the error that a call ends with
async function refused(call) {
  try {
    await call();
  } catch (error) {
    const kind = Object.getPrototypeOf(error).constructor.name;
    const { status, code, param, type, message } = error;
    return { kind, status, code, param, type, message };
  }
  return { kind: "none" };
}

async function streamed(stream) {
  const events = [];
  for await (const event of stream) {
    events.push({
      type: event.type,
      index: event.partial_image_index,
      size: event.size,
      format: event.output_format,
      picture: event.b64_json,
      usage: event.usage,
    });
  }
  return events;
}

const found = {};
found.generated = await client.images.generate({
  prompt: "a red apple", n: 2, size: "64x64", seed: 7, quality: "high",
});
found.linked = await client.images.generate({
  prompt: "a", size: "64x64", response_format: "url", seed: 8,
});
found.jpeg = await client.images.generate({ prompt: "a", size: "64x64", output_format: "jpeg" });
found.edited = await client.images.edit({
  image: await picture(),
  mask: await toFile(hole, "mask.png", { type: "image/png" }),
  prompt: "a hat",
  size: "64x64",
});
found.varied = await client.images.createVariation({ image: await picture(), n: 2, size: "64x64" });
found.stream = await streamed(
  await client.images.generate({
    prompt: "a cat", size: "64x64", stream: true, partial_images: 2, seed: 9, steps: 8,
  }),
);
found.editStream = await streamed(
  await client.images.edit({
    image: await picture(), prompt: "a hat", stream: true, partial_images: 1, size: "64x64",
  }),
);
found.models = [];
for await (const model of client.models.list()) found.models.push(model.id);
found.model = await client.models.retrieve("plain");

found.errors = {
  noPrompt: await refused(() => client.images.generate({ prompt: "" })),
  size: await refused(() => client.images.generate({ prompt: "a", size: "1x1" })),
  many: await refused(() => client.images.generate({ prompt: "a", n: 11 })),
  model: await refused(() => client.images.generate({ prompt: "a", model: "nobody" })),
  noModel: await refused(() => client.models.retrieve("nobody")),
  picture: await refused(async () =>
    client.images.edit({ image: await toFile(Buffer.from("<svg/>"), "a.svg"), prompt: "a" }),
  ),
  noRoute: await refused(() => client.chat.completions.create({ model: "a", messages: [] })),
  broken: await refused(() => client.images.generate({ prompt: "break", size: "64x64" })),
};
const controller = new AbortController();
const held = refused(() =>
  client.images.generate({ prompt: "held", size: "64x64", steps: 150 }, { signal: controller.signal }),
);
setTimeout(() => controller.abort(), 300);
found.errors.aborted = await held;
console.log(JSON.stringify(found));
