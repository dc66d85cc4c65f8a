// Decode one map of the atlas in Node.js, without Python.
//
//   npm install --ignore-scripts --prefix work/node onnxruntime-node@1.30.0
//   NODE_PATH=work/node/node_modules node docs/examples/atlas_decode.cjs results/atlas/export/onnx map.json
//
// The folder holds volume_decoder.onnx, models.json (digests) and example.json (one input and the map of PyTorch).
// Writes the decoded map and prints its largest difference from PyTorch.
"use strict";
const { createHash } = require("node:crypto");
const { readFileSync, writeFileSync } = require("node:fs");
const { join } = require("node:path");
const ort = require("onnxruntime-node");

const [folder, out] = process.argv.slice(2);
if (!folder || !out) {
  console.error("usage: node atlas_decode.cjs FOLDER OUT.json");
  process.exit(2);
}

async function main() {
  const read = (name) => JSON.parse(readFileSync(join(folder, name), "utf8"));
  const { models, statement } = read("models.json");
  const file = join(folder, "volume_decoder.onnx");
  const digest = createHash("sha256").update(readFileSync(file)).digest("hex");
  if (digest !== models.volume_decoder.sha256) {
    throw new Error(`${file} has SHA-256 ${digest}, models.json lists ${models.volume_decoder.sha256}`);
  }
  const example = read("example.json");
  const session = await ort.InferenceSession.create(file);
  const feeds = {};
  for (const name of models.volume_decoder.inputs) {
    feeds[name] = new ort.Tensor("float32", Float32Array.from(example[name]), [1, example[name].length]);
  }
  const { maps } = await session.run(feeds);
  const map = Array.from(maps.data);
  const error = map.reduce((most, value, k) => Math.max(most, Math.abs(value - example.map[k])), 0);
  writeFileSync(out, JSON.stringify({ shape: maps.dims.slice(1), map, max_error: error }));
  console.log(`${map.length} voxels, largest difference from PyTorch ${error.toExponential(2)}. ${statement}`);
}

main().catch((problem) => {
  console.error(problem.message);
  process.exit(1);
});
