/**
 * Raw deflate (RFC 1951) into exactly as many bytes as are known to come.
 *
 * By hand, because the platforms' DecompressionStream does not everywhere say that bytes are left over, and a hostile
 * stream must end at the size that was checked. It refuses what zlib refuses.
 */

const LENGTH_BASE = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_EXTRA = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE = [
  1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145,
  8193, 12289, 16385, 24577,
];
const CODE_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

class Bits {
  constructor(data) {
    this.data = data;
    this.at = 0;
    this.held = 0;
    this.count = 0;
  }

  /** Up to 15 bits without taking them; zeros beyond the end. */
  peek(count) {
    while (this.count < count) {
      this.held |= (this.data[this.at++] ?? 0) << this.count;
      this.count += 8;
    }
    return this.held & ((1 << count) - 1);
  }

  drop(count) {
    this.held >>>= count;
    this.count -= count;
  }

  take(count) {
    const value = this.peek(count);
    this.drop(count);
    return value;
  }

  /** Whole bytes that were looked into, less those that are still whole in `held`. */
  get taken() {
    return this.at - (this.count >> 3);
  }

  align() {
    this.at = this.taken;
    this.held = this.count = 0;
  }
}

/** A prefix code as one table: entry = symbol << 4 | length, 0 where no code word is. */
class Code {
  constructor(lengths, kind) {
    const counts = new Uint16Array(16);
    for (const length of lengths) counts[length]++;
    this.bits = 15;
    while (this.bits > 1 && !counts[this.bits]) this.bits--;
    const next = new Uint16Array(16);
    let left = 1;
    for (let length = 1; length < 16; length++) {
      left = 2 * left - counts[length];
      if (left < 0) throw new Error(`its ${kind} code is over-subscribed`);
      next[length] = length > 1 ? (next[length - 1] + counts[length - 1]) << 1 : 0;
    }
    // A code of one word of one bit is the only incomplete one, and none at all where none is used.
    const used = lengths.length - counts[0];
    if (left > 0 && used && (kind === "length" || this.bits > 1)) throw new Error(`its ${kind} code is incomplete`);
    this.table = new Uint16Array(1 << this.bits);
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      const length = lengths[symbol];
      if (!length) continue;
      let reversed = 0;
      for (let bit = 0, word = next[length]++; bit < length; bit++, word >>= 1) reversed = (reversed << 1) | (word & 1);
      for (let i = reversed; i < this.table.length; i += 1 << length) this.table[i] = (symbol << 4) | length;
    }
  }

  read(bits) {
    const entry = this.table[bits.peek(this.bits)];
    if (!entry) throw new Error("it has a code word that means nothing");
    bits.drop(entry & 15);
    return entry >> 4;
  }
}

let fixed = null;

function fixedCodes() {
  fixed ??= [
    new Code([...Array(144).fill(8), ...Array(112).fill(9), ...Array(24).fill(7), ...Array(8).fill(8)], "literal"),
    new Code(Array(32).fill(5), "distance"),
  ];
  return fixed;
}

function dynamicCodes(bits) {
  const literals = bits.take(5) + 257;
  const distances = bits.take(5) + 1;
  const given = bits.take(4) + 4;
  if (literals > 286 || distances > 30) throw new Error("it has too many length or distance symbols");
  const order = new Uint8Array(19);
  for (let i = 0; i < given; i++) order[CODE_ORDER[i]] = bits.take(3);
  const code = new Code(order, "length");
  const lengths = new Uint8Array(literals + distances);
  for (let at = 0; at < lengths.length; ) {
    const symbol = code.read(bits);
    if (symbol < 16) {
      lengths[at++] = symbol;
      continue;
    }
    if (symbol === 16 && !at) throw new Error("it repeats a length where there is none");
    const value = symbol === 16 ? lengths[at - 1] : 0;
    const repeat = symbol === 16 ? 3 + bits.take(2) : symbol === 17 ? 3 + bits.take(3) : 11 + bits.take(7);
    if (at + repeat > lengths.length) throw new Error("it repeats a length beyond the last");
    lengths.fill(value, at, (at += repeat));
  }
  if (!lengths[256]) throw new Error("it has no code word for the end of a block");
  return [new Code(lengths.subarray(0, literals), "literal"), new Code(lengths.subarray(literals), "distance")];
}

/**
 * @param {Uint8Array} data  one raw deflate stream, and nothing after it
 * @param {number} size      bytes that it must give
 * @returns {Uint8Array}
 * @throws {Error} it is broken, cut short, goes on, or gives another number of bytes
 */
export function inflate(data, size) {
  const bits = new Bits(data);
  const out = new Uint8Array(size);
  let at = 0;
  const room = (count) => {
    if (at + count > size) throw new Error(`it gives more than ${size} bytes`);
    if (bits.taken > data.length) throw new Error("it is cut short");
  };
  for (let last = 0; !last; ) {
    last = bits.take(1);
    const type = bits.take(2);
    if (type === 3) throw new Error("it has a block of an unknown kind");
    if (type === 0) {
      bits.align();
      const length = bits.take(8) | (bits.take(8) << 8);
      const inverse = bits.take(8) | (bits.take(8) << 8);
      if ((length ^ inverse) !== 0xffff) throw new Error("a stored block has no valid length");
      room(length);
      if (bits.at + length > data.length) throw new Error("it is cut short");
      out.set(data.subarray(bits.at, bits.at + length), at);
      at += length;
      bits.at += length;
      continue;
    }
    const [literals, distances] = type === 1 ? fixedCodes() : dynamicCodes(bits);
    for (;;) {
      const symbol = literals.read(bits);
      if (symbol === 256) break;
      if (symbol < 256) {
        room(1);
        out[at++] = symbol;
        continue;
      }
      const length = LENGTH_BASE[symbol - 257] + bits.take(LENGTH_EXTRA[symbol - 257] ?? 0);
      const place = distances.read(bits);
      if (!length || place > 29) throw new Error("it has a length or a distance that is none");
      const distance = DISTANCE_BASE[place] + bits.take(Math.max(0, (place >> 1) - 1));
      if (distance > at) throw new Error("it points before its beginning");
      room(length);
      for (const stop = at + length; at < stop; at++) out[at] = out[at - distance];
    }
    if (bits.taken > data.length) throw new Error("it is cut short");
  }
  if (at !== size) throw new Error(`it gives ${at} bytes in place of ${size}`);
  if (bits.taken !== data.length) throw new Error("it does not end where its bytes end");
  return out;
}
