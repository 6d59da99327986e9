/**
 * The range coder of docs/PRIOR.md, "The range coder", as an encoder. Numbers of 64 bits are BigInts here: nobody encodes
 * as often as they decode.
 */

const STATE = 1n << 64n;
const WORD = 1n << 32n;
const UNIT = 2 ** 24;

export class RangeEncoder {
  constructor() {
    /** What has been put out, 32 bits each. */
    this.words = [];
    this.low = 0n;
    this.range = STATE - 1n;
  }

  /** Narrows the interval to [start, stop) of 2^24. */
  narrow(start, stop) {
    const scale = this.range >> 24n;
    this.add(scale * BigInt(start));
    this.range = scale * BigInt(stop - start);
    if (this.range < WORD) {
      this.words.push(Number(this.low >> 32n));
      this.low = (this.low % WORD) << 32n;
      this.range <<= 32n;
    }
  }

  /** Moves the lower end up. A carry goes to the words before. */
  add(distance) {
    this.low += distance;
    if (this.low < STATE) return;
    this.low -= STATE;
    let at = this.words.length - 1;
    while (this.words[at] === 2 ** 32 - 1) this.words[at--] = 0;
    this.words[at]++;
  }

  /** @param {Uint32Array} starts  where the entries begin, and 2^24 */
  entry(starts, entry) {
    this.narrow(starts[entry], starts[entry + 1]);
  }

  /** One of `size` numbers, all as likely. @param {number} size  up to 2^23 */
  uniform(size, number) {
    const each = Math.floor(UNIT / size);
    this.narrow(number * each, number === size - 1 ? UNIT : (number + 1) * each);
  }

  /**
   * What was put out, and the shortest tail in the interval, of several the least: docs/PRIOR.md, "The end".
   * @returns {Uint8Array}
   */
  finish() {
    let kept = 0;
    let distance = 0n;
    for (; kept <= 8; kept++) {
      const unit = 1n << BigInt(64 - 8 * kept);
      distance = (unit - (this.low % unit)) % unit;
      if (distance < this.range) break;
    }
    this.add(distance);
    const words = [...this.words, Number(this.low >> 32n), Number(this.low % WORD)];
    const bytes = new Uint8Array(4 * words.length);
    const view = new DataView(bytes.buffer);
    words.forEach((word, i) => view.setUint32(4 * i, word));
    return bytes.subarray(0, 4 * this.words.length + kept);
  }
}
