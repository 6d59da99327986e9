/**
 * Files around bare bitstreams, as browsers read them: docs/FORMAT.md, "Patches" (runtime/sdrt/pixels/still_streams.py).
 *
 * Sources: AV1 Bitstream & Decoding Process Specification, 5.3 (OBUs) and 5.5 (sequence header); ISO/IEC 14496-12 and
 * 23008-12 (boxes); AV1 Image File Format; RFC 9649, 3.4.
 */

import { joined } from "./container.js";
import { CorruptError } from "./errors.js";

const SEQUENCE_HEADER = 1;
const FRAME = 6;
const HAS_SIZE = 2;
const VP8L_SIGNATURE = 0x2f;

const refuse = (what) => {
  throw new CorruptError(`the patches' ${what}`);
};

/**
 * What a sequence header says, after the check that the stream is it and one frame of a single still picture of 8 bits
 * whose size no frame can change, to the last byte.
 * @param {Uint8Array} stream  bare AV1
 * @returns {{profile: number, level: number, widthPx: number, heightPx: number, gray: boolean}}
 * @throws {CorruptError}
 */
export function readSequenceHeader(stream) {
  const units = [...unitsOf(stream)];
  if (units.map(({ kind }) => kind).join() !== [SEQUENCE_HEADER, FRAME].join())
    refuse("AV1 stream is not one sequence header and one frame");
  const take = bitReader(units[0].body);
  const [profile, still, reduced] = [take(3), take(1), take(1)];
  if (profile > 1 || !still || !reduced) refuse("AV1 stream is no still picture of profile 0 or 1");
  const level = take(5);
  const [wide, high] = [take(4) + 1, take(4) + 1];
  const [widthPx, heightPx] = [take(wide) + 1, take(high) + 1];
  take(6); // tools: superblocks, intra filters, superres, CDEF, restoration
  if (take(1)) refuse("AV1 stream has more than 8 bits a sample");
  return { profile, level, widthPx, heightPx, gray: profile === 0 && take(1) === 1 };
}

/** The OBUs that make up `data`, each with its size. */
function* unitsOf(data) {
  for (let at = 0; at < data.length; ) {
    const head = data[at++];
    // Reserved bits, an extension, or no size.
    if ((head & 0x87) !== HAS_SIZE) refuse("AV1 stream holds a unit that is not plain");
    let size = 0;
    for (let place = 0; ; place++) {
      if (place === 4 || at >= data.length) refuse("AV1 stream has no proper sizes");
      size |= (data[at] & 0x7f) << (7 * place);
      if (data[at++] < 0x80) break;
    }
    if (at + size > data.length) refuse("AV1 stream is truncated");
    yield { kind: head >> 3, body: data.subarray(at, at + size) };
    at += size;
  }
}

/** Takes numbers of at most 16 bits, the highest bit of each byte first. */
function bitReader(data) {
  let at = 0;
  return (count) => {
    let value = 0;
    for (; count > 0; count--, at++) {
      if (at >> 3 >= data.length) refuse("AV1 sequence header is truncated");
      value = (value << 1) | ((data[at >> 3] >> (7 - (at & 7))) & 1);
    }
    return value;
  };
}

/**
 * Width and height that a VP8L image-stream begins with.
 * @param {Uint8Array} stream
 * @throws {CorruptError} any other stream
 */
export function vp8lSize(stream) {
  if (stream.length < 5 || stream[0] !== VP8L_SIGNATURE || stream[4] >> 5) refuse("stream does not begin as VP8L does");
  const word = stream[1] | (stream[2] << 8) | (stream[3] << 16) | (stream[4] << 24);
  return { widthPx: (word & 0x3fff) + 1, heightPx: ((word >> 14) & 0x3fff) + 1 };
}

/** The AVIF file of a bare bitstream. Throws as `readSequenceHeader`. */
export function avifFile(stream) {
  const { profile, level, widthPx, heightPx, gray } = readSequenceHeader(stream);
  const channels = gray ? 1 : 3;
  const color = (gray ? 0x10 : 0) | (profile === 0 ? 0x0c : 0);
  const properties = [
    ...fullBox("ispe", [...u32(widthPx), ...u32(heightPx)]),
    ...fullBox("pixi", [channels, ...Array(channels).fill(8)]),
    ...box("av1C", [0x81, (profile << 5) | level, color, 0]),
  ];
  const associations = fullBox("ipma", [...u32(1), 0, 1, 3, 1, 2, 0x83]);
  const item = box("infe", [2, 0, 0, 0, 0, 1, 0, 0, ...ascii("av01"), 0]);
  const kind = box("ftyp", [...ascii("avif"), 0, 0, 0, 0, ...ascii("avifmif1miaf")]);
  const meta = (offset) =>
    fullBox("meta", [
      ...fullBox("hdlr", [0, 0, 0, 0, ...ascii("pict"), ...Array(13).fill(0)]),
      ...fullBox("pitm", [0, 1]),
      ...fullBox("iloc", [0x44, 0, 0, 1, 0, 1, 0, 0, 0, 1, ...u32(offset), ...u32(stream.length)]),
      ...fullBox("iinf", [0, 1, ...item]),
      ...box("iprp", [...box("ipco", properties), ...associations]),
    ]);
  const dataAt = kind.length + meta(0).length + 8;
  return joined([kind, meta(dataAt), u32(stream.length + 8), ascii("mdat"), stream]);
}

/** The WebP file of a bare VP8L image-stream. */
export function webpFile(stream) {
  const padding = Array(stream.length % 2).fill(0);
  const little = (value) => u32(value).reverse();
  const size = 12 + stream.length + padding.length;
  return joined([ascii("RIFF"), little(size), ascii("WEBPVP8L"), little(stream.length), stream, padding]);
}

const ascii = (text) => Array.from(text, (letter) => letter.charCodeAt(0));
const u32 = (value) => [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];
const box = (kind, data) => [...u32(8 + data.length), ...ascii(kind), ...data];
const fullBox = (kind, data) => box(kind, [0, 0, 0, 0, ...data]);
