/**
 * The range coder of docs/PRIOR.md, "The range coder", as a decoder: 64 bits of state, 32-bit words, 24-bit
 * probabilities.
 *
 * A 64-bit number is held as two doubles that are integers, 40 bits above 24: N = high * 2^24 + low. So `range >> 24`
 * is just `high`, and no product below leaves 2^53.
 */

import { CorruptError } from "./errors.js";

const UNIT = 2 ** 24;

export class RangeDecoder {
  /** @param {Uint8Array} payload */
  constructor(payload) {
    this.payload = payload;
    this.taken = 0;
    const first = this.word();
    const second = this.word();
    this.codeHigh = first * 256 + (second >>> 24);
    this.codeLow = second & 0xffffff;
    this.rangeHigh = 2 ** 40 - 1;
    this.rangeLow = UNIT - 1;
  }

  /** The next 32 bits, the first byte highest; zeros beyond the end, of which a payload lacks 8 at most. */
  word() {
    const at = this.taken;
    const payload = this.payload;
    this.taken += 4;
    if (this.taken > payload.length + 8)
      throw new CorruptError(`payload of ${payload.length} bytes is too short for the symbols that it stands for`);
    if (at + 4 <= payload.length)
      return ((payload[at] << 24) | (payload[at + 1] << 16) | (payload[at + 2] << 8) | payload[at + 3]) >>> 0;
    let word = 0;
    for (let i = at; i < at + 4; i++) word = word * 256 + (i < payload.length ? payload[i] : 0);
    return word;
  }

  /** floor(code / scale), below 2^24; `scale` is `rangeHigh`. */
  target() {
    const scale = this.rangeHigh;
    // The quotient of doubles is off by one at most; the remainder, computed exactly, says which way.
    let target = Math.floor((this.codeHigh * UNIT + this.codeLow) / scale);
    const upper = Math.floor(scale / UNIT);
    const product = (scale - upper * UNIT) * target;
    const carry = Math.floor(product / UNIT);
    const rest = (this.codeHigh - upper * target - carry) * UNIT + (this.codeLow - (product - carry * UNIT));
    if (rest < 0) target--;
    else if (rest >= scale) target++;
    if (target >= UNIT) throw new CorruptError("payload cannot be decoded: its number is in no interval");
    return target;
  }

  /** Narrows the interval to [start, stop) of 2^24. */
  narrow(start, stop) {
    const scale = this.rangeHigh;
    const upper = Math.floor(scale / UNIT);
    const lower = scale - upper * UNIT;
    let product = lower * start;
    let carry = Math.floor(product / UNIT);
    this.codeHigh -= upper * start + carry;
    this.codeLow -= product - carry * UNIT;
    if (this.codeLow < 0) {
      this.codeLow += UNIT;
      this.codeHigh--;
    }
    const width = stop - start;
    product = lower * width;
    carry = Math.floor(product / UNIT);
    this.rangeHigh = upper * width + carry;
    this.rangeLow = product - carry * UNIT;
    if (this.rangeHigh < 256) {
      const word = this.word();
      this.rangeHigh = (this.rangeHigh * UNIT + this.rangeLow) * 256;
      this.rangeLow = 0;
      this.codeHigh = (this.codeHigh * UNIT + this.codeLow) * 256 + (word >>> 24);
      this.codeLow = word & 0xffffff;
    }
  }

  /** @param {Uint32Array} starts  where the entries begin, and 2^24 @returns {number} the entry */
  entry(starts) {
    const target = this.target();
    let low = 0;
    let high = starts.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (starts[middle] <= target) low = middle;
      else high = middle;
    }
    this.narrow(starts[low], starts[low + 1]);
    return low;
  }

  /** One of `size` numbers, all as likely. @param {number} size  up to 2^23 */
  uniform(size) {
    const each = Math.floor(UNIT / size);
    const number = Math.min(Math.floor(this.target() / each), size - 1);
    this.narrow(number * each, number === size - 1 ? UNIT : (number + 1) * each);
    return number;
  }

  /** Refuses a payload that is not the one that its symbols are coded as: docs/PRIOR.md, "The end". */
  finish() {
    const length = this.payload.length;
    if (length === this.taken - 8) return;
    const whole = (high, low) => (BigInt(high) << 24n) | BigInt(low); // once in a file: clarity before speed
    const code = whole(this.codeHigh, this.codeLow);
    const range = whole(this.rangeHigh, this.rangeLow);
    const last = BigInt(this.payload[length - 1]);
    const unit = length <= this.taken ? 1n << BigInt(8 * (this.taken - length)) : 0n;
    if (!last || code >= unit || code + (256n - last) * unit < range)
      throw new CorruptError("payload is not what its symbols are coded as: bytes are left over or altered");
  }
}
