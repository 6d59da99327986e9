/**
 * Rewrites the graph of a decoder for onnxruntime-web, whose vectors hold four floats and whose processor multiplies and
 * adds in two steps: what costs nothing natively costs half of the time there. The function stays the same, and so do the
 * weights; the graph grows by some nodes.
 *
 * - Activations in int8 become uint8. onnxruntime-web has no quick convolution of int8, and of values that several
 *   convolutions read onnxruntime does not make uint8 by itself.
 * - Convolutions of 3 x 3 in float become Winograd's F(4, 3) along rows (Lavin and Gray, arXiv:1509.09308): four outputs
 *   with six products instead of twelve. This needs rows of a multiple of four, which DepthToSpace makes.
 * - The sum of two results of DepthToSpace becomes DepthToSpace of a sum, with channels innermost: as the convolutions in 8
 *   bits want them. onnxruntime then leaves them there until the next DepthToSpace.
 */

/** Numbers of fields in onnx.proto. */
const MODEL = { graph: 7 };
const GRAPH = { node: 1, initializer: 5, valueInfo: 13 };
const NODE = { input: 1, output: 2, opType: 4, attribute: 5 };
const ATTRIBUTE = { name: 1, integer: 3, text: 4, integers: 8, type: 20 };
const TENSOR = { dims: 1, type: 2, name: 8, raw: 9 };
const [FLOAT, UINT8, INT8, INT64] = [1, 2, 3, 7];
const [INTEGER_ATTRIBUTE, INTEGERS_ATTRIBUTE] = [2, 7];

/** Operators whose results are as wide as the widest of what they are given. */
const AS_WIDE = ["Add", "Cast", "DequantizeLinear", "LeakyRelu", "Mul", "QuantizeLinear", "Relu"];

// Winograd's transforms of inputs, taps and outputs.
const OF_INPUTS = [
  [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
  [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
];
const OF_TAPS = [
  [1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
  [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1],
];
const OF_OUTPUTS = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]];
const [OUTPUTS, PRODUCTS, TAPS] = [4, 6, 3];
const transposed = (matrix) => matrix[0].map((_, column) => matrix.map((row) => row[column]));

/**
 * @param {Uint8Array} bytes  an ONNX model whose first input may have any width
 * @returns {Buffer} the same function of the same inputs
 */
export function forWeb(bytes) {
  const model = fieldsOf(bytes);
  const graph = fieldsOf(model.find(({ number }) => number === MODEL.graph).value);
  const nodes = graph.filter(({ number }) => number === GRAPH.node).map(({ value }) => readNode(value));
  const tensors = new Map();
  for (const field of graph.filter(({ number }) => number === GRAPH.initializer)) {
    const content = fieldsOf(field.value);
    tensors.set(text(content, TENSOR.name), { field, dims: numbers(content, TENSOR.dims), type: numbers(content, TENSOR.type)[0] });
  }
  makeUnsigned(nodes, tensors);

  const added = [];
  const constant = (name, type, dims, values) => {
    added.push({ number: GRAPH.initializer, value: tensor(name, type, dims, values) });
    return name;
  };
  const widened = new Map(); // constants as they are used -> what they are made of
  for (const { opType, input, output } of nodes)
    if (["Cast", "DequantizeLinear"].includes(opType)) widened.set(output, { opType, name: input[0] });
  const sums = sumsOfDepth(nodes);
  const absorbed = new Set([...sums.values()].flat().map(({ output }) => output));
  const factors = new Map(); // of values: a number that their width is a multiple of; 1 of all others
  const rewritten = nodes.flatMap((node) => {
    const { opType, input, output, attributes } = node;
    const factor = Math.max(...input.map((name) => factors.get(name) ?? 1));
    const weights = opType === "Conv" && (widened.get(input[1]) ?? { name: input[1] });
    const kernel = tensors.get(weights.name)?.dims;
    const isAsWide = AS_WIDE.includes(opType) || (kernel && keepsSize(kernel, attributes));
    if (opType === "DepthToSpace") factors.set(output, factor * attributes.blocksize[0]);
    else if (isAsWide) factors.set(output, factor);
    if (absorbed.has(output)) return [];
    if (sums.has(output)) return depthOfSum(sums.get(output), output, constant);
    const isFloat = kernel && weights.opType !== "DequantizeLinear";
    const isPlain = isFloat && isAsWide && kernel.slice(2).join() === "3,3" && (attributes.group ?? [1])[0] === 1;
    return isPlain && factor % OUTPUTS === 0 ? winograd(input, output, kernel, constant) : [node.bytes];
  });
  const kept = graph.filter(({ number }) => number !== GRAPH.node && number !== GRAPH.valueInfo);
  const value = message([...rewritten.map((each) => ({ number: GRAPH.node, value: each })), ...kept, ...added]);
  return message(model.map((field) => (field.number === MODEL.graph ? { number: MODEL.graph, value } : field)));
}

/** Whether a convolution gives as many rows and columns as it is given. */
function keepsSize(kernel, { pads = [0, 0, 0, 0], strides = [1], dilations = [1] }) {
  const border = kernel.slice(2).map((size) => (size - 1) / 2);
  return pads.join() === [...border, ...border].join() && [...strides, ...dilations].every((each) => each === 1);
}

/** Zero points of activations: uint8 instead of int8, and 128 more. Weights keep theirs. */
function makeUnsigned(nodes, tensors) {
  const activations = new Set(nodes.filter(({ opType }) => opType === "QuantizeLinear").map(({ output }) => output));
  const isActivation = ({ opType, input, output }) => activations.has(opType === "QuantizeLinear" ? output : input[0]);
  for (const [name, { field, dims, type }] of tensors) {
    const readers = nodes.filter(({ input }) => input[2] === name);
    const [zero] = fieldsOf(field.value).filter(({ number }) => number === TENSOR.raw).map(({ value }) => value);
    if (type === INT8 && zero?.length === 1 && readers.length && readers.every(isActivation))
      field.value = tensor(name, UINT8, dims, [(zero[0] + 128) % 256]);
  }
}

/** Sums to be quantized, of two values that DepthToSpace gives to nobody else: their outputs -> the DepthToSpace nodes. */
function sumsOfDepth(nodes) {
  const makers = new Map(nodes.map((node) => [node.output, node]));
  const readers = (name) => nodes.filter(({ input }) => input.includes(name));
  const isDepth = (node) => node?.opType === "DepthToSpace" && node.attributes.mode === "CRD" && readers(node.output).length === 1;
  const found = new Map();
  for (const { opType, input, output } of nodes) {
    const depths = opType === "Add" ? input.map((name) => makers.get(name)) : [];
    if (depths.length && depths.every(isDepth) && new Set(depths.map(({ attributes }) => attributes.blocksize[0])).size === 1)
      if (readers(output).some((reader) => reader.opType === "QuantizeLinear")) found.set(output, depths);
  }
  return found;
}

/** The nodes that replace a sum of DepthToSpace: (batch, channels, block, block, rows, columns), channels innermost. */
function depthOfSum(depths, output, constant) {
  const named = (what) => `${output}.${what}`;
  const integers = (what, values) => constant(named(what), INT64, [values.length], values.map(BigInt));
  const block = depths[0].attributes.blocksize[0];
  return [
    node("Add", depths.map(({ input }) => input[0]), named("sum")),
    node("Transpose", [named("sum")], named("inner"), { perm: [0, 2, 3, 1] }),
    node("Reshape", [named("inner"), integers("blocks.shape", [0, 0, 0, -1, block, block])], named("blocks")),
    node("Transpose", [named("blocks")], named("spread"), { perm: [0, 1, 4, 2, 5, 3] }),
    node("Shape", [named("inner")], named("sizes")),
    node("Mul", [named("sizes"), integers("grown", [1, block, block, 0])], named("enlarged")),
    node("Sub", [named("enlarged"), integers("inferred", [0, 0, 0, 1])], named("shape")), // the channels: -1
    node("Reshape", [named("spread"), named("shape")], named("wide")),
    node("Transpose", [named("wide")], output, { perm: [0, 3, 1, 2] }),
  ];
}

/** The nodes that replace a convolution of 3 x 3; `source` has (batch, channels, rows, columns). */
function winograd([source, weights, bias], output, [channelsOut, channelsIn], constant) {
  const named = (what) => `${output}.${what}`;
  const matrix = (what, dims, values) => constant(named(what), FLOAT, dims, values.flat());
  const reshape = (from, to, dims) =>
    node("Reshape", [from, constant(named(`${to}.shape`), INT64, [4], dims.map(BigInt))], to === "" ? output : named(to));
  const operands = [named("grouped"), named("kernels")];
  const nodes = [
    // The kernels: (out, in, 3, 3) -> (6 * out, in, 3, 1)
    node("MatMul", [weights, matrix("of_taps", [TAPS, PRODUCTS], transposed(OF_TAPS))], named("transformed")),
    node("Transpose", [named("transformed")], named("stacked"), { perm: [3, 0, 1, 2] }),
    reshape(named("stacked"), "kernels", [PRODUCTS * channelsOut, channelsIn, TAPS, 1]),
    // The inputs: six numbers for four columns and one more on each side, as channels of their own
    reshape(source, "rows", [0, 1, -1, 0]),
    node("Conv", [named("rows"), matrix("of_inputs", [PRODUCTS, 1, 1, PRODUCTS], OF_INPUTS)], named("tiles"),
      { kernel_shape: [1, PRODUCTS], strides: [1, OUTPUTS], pads: [0, 1, 0, 1] }),
    reshape(named("tiles"), "grouped", [0, PRODUCTS * channelsIn, -1, 0]),
  ];
  if (bias) { // it goes to the second product, which every output has once
    const zeros = (count, what) => matrix(what, [count * channelsOut], [Array(count * channelsOut).fill(0)]);
    nodes.push(node("Concat", [zeros(1, "above"), bias, zeros(4, "below")], named("bias"), { axis: 0 }));
    operands.push(named("bias"));
  }
  return [
    ...nodes,
    node("Conv", operands, named("products"), { kernel_shape: [TAPS, 1], pads: [1, 0, 1, 0], group: PRODUCTS }),
    reshape(named("products"), "apart", [0, PRODUCTS, -1, 0]),
    node("ConvTranspose", [named("apart"), matrix("of_outputs", [PRODUCTS, 1, 1, OUTPUTS], transposed(OF_OUTPUTS))],
      named("joined"), { kernel_shape: [1, OUTPUTS], strides: [1, OUTPUTS] }),
    reshape(named("joined"), "", [0, channelsOut, -1, 0]),
  ];
}

const integersOf = (attribute) => [...numbers(attribute, ATTRIBUTE.integer), ...numbers(attribute, ATTRIBUTE.integers)];

/** What is asked of a node. */
function readNode(bytes) {
  const fields = fieldsOf(bytes);
  const attributes = fields
    .filter(({ number }) => number === NODE.attribute)
    .map(({ value }) => fieldsOf(value))
    .map((each) => [text(each, ATTRIBUTE.name), text(each, ATTRIBUTE.text) || integersOf(each)]);
  return {
    bytes, opType: text(fields, NODE.opType), input: texts(fields, NODE.input), output: text(fields, NODE.output),
    attributes: Object.fromEntries(attributes),
  };
}

function node(opType, input, output, attributes = {}) {
  const attribute = ([name, value]) =>
    message([
      { number: ATTRIBUTE.name, value: name },
      ...[value].flat().map((each) => ({ number: Array.isArray(value) ? ATTRIBUTE.integers : ATTRIBUTE.integer, value: each })),
      { number: ATTRIBUTE.type, value: Array.isArray(value) ? INTEGERS_ATTRIBUTE : INTEGER_ATTRIBUTE },
    ]);
  return message([
    ...input.map((value) => ({ number: NODE.input, value })),
    { number: NODE.output, value: output },
    { number: NODE.opType, value: opType },
    ...Object.entries(attributes).map((each) => ({ number: NODE.attribute, value: attribute(each) })),
  ]);
}

function tensor(name, type, dims, values) {
  const array = { [FLOAT]: Float32Array, [UINT8]: Uint8Array, [INT64]: BigInt64Array }[type].from(values);
  return message([
    ...dims.map((value) => ({ number: TENSOR.dims, value })),
    { number: TENSOR.type, value: type },
    { number: TENSOR.name, value: name },
    { number: TENSOR.raw, value: new Uint8Array(array.buffer) },
  ]);
}

// Protocol buffers: fields are numbers or bytes; of bytes only their place says whether they are text, integers or a message.

const [VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES] = [0, 1, 2, 5];

/** The fields of a message, in order. @returns {{number: number, kind: number, value: bigint | Uint8Array}[]} */
function fieldsOf(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length; ) {
    const key = readVarint(bytes, at);
    const [number, kind] = [Number(key.value) >> 3, Number(key.value) & 7];
    at = key.end;
    if (kind === VARINT) {
      const { value, end } = readVarint(bytes, at);
      found.push({ number, kind, value });
      at = end;
      continue;
    }
    let size = { [EIGHT_BYTES]: 8, [FOUR_BYTES]: 4 }[kind];
    if (kind === BYTES) {
      const length = readVarint(bytes, at);
      [size, at] = [Number(length.value), length.end];
    }
    if (!(at + size <= bytes.length)) throw new Error("the graph is no ONNX");
    found.push({ number, kind, value: bytes.subarray(at, at + size) });
    at += size;
  }
  return found;
}

function readVarint(bytes, at) {
  let value = 0n;
  for (let shift = 0n; at < bytes.length; shift += 7n) {
    const byte = bytes[at++];
    value |= BigInt(byte & 127) << shift;
    if (byte < 128) return { value, end: at };
  }
  throw new Error("the graph is no ONNX");
}

function varint(value) {
  const bytes = [];
  for (value = BigInt.asUintN(64, BigInt(value)); value > 127n; value >>= 7n) bytes.push(Number(value & 127n) | 128);
  return Buffer.from([...bytes, Number(value)]);
}

/** The bytes of a message; what is read keeps its kind, what is new is a varint if it is a number. */
function message(fields) {
  const parts = fields.flatMap(({ number, kind, value }) => {
    kind ??= typeof value === "number" || typeof value === "bigint" ? VARINT : BYTES;
    const content = kind === VARINT ? varint(value) : Buffer.from(value);
    return [varint((number << 3) | kind), ...(kind === BYTES ? [varint(content.length)] : []), content];
  });
  return Buffer.concat(parts);
}

const texts = (fields, number) => fields.filter((field) => field.number === number).map(({ value }) => Buffer.from(value).toString());
const text = (fields, number) => texts(fields, number)[0] ?? "";
const numbers = (fields, number) =>
  fields.filter((field) => field.number === number).flatMap(({ kind, value }) => (kind === VARINT ? [Number(value)] : packed(value)));

/** Varints that stand one after another. */
function packed(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length; ) {
    const { value, end } = readVarint(bytes, at);
    found.push(Number(value));
    at = end;
  }
  return found;
}
