// Documents to try the server with, in turns.

const EXAMPLES = [
  ["Maria Okafor lives in Bergen. It rained.", "Where does Maria Okafor live?"],
  ["Tomas Lindqvist works as a pilot. The bus was late again.", "What does Tomas Lindqvist do?"],
  ["The headquarters of Halden Optics are in Porto. Nobody was surprised.", "Where is Halden Optics based?"],
];
let turn = 0;

/** The next `[text, question]`. */
export const nextExample = () => EXAMPLES[turn++ % EXAMPLES.length];
