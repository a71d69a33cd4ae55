// Documents to try the server with, in turns.

const EXAMPLES = [
  ["Maria Okafor lives in Bergen. It rained.", "Where does Maria Okafor live?"],
  ["Henrik Valdis loves lentil soup. The bus was late again.", "What does Henrik Valdis like to eat?"],
  ["Elsa Quint works as a carpenter. The shops were closed.", "What is the profession of Elsa Quint?"],
  ["The Halden Lamp is made of copper. Nobody was surprised.", "What is the Halden Lamp made of?"],
];
let turn = 0;

/** The next `[text, question]`. */
export const nextExample = () => EXAMPLES[turn++ % EXAMPLES.length];
