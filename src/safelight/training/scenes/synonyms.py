"""What people say instead of a catalogue's names; chosen by hand, so captions use them often."""

from collections.abc import Mapping

_TABLE = """
accordion: squeezebox
adhesive bandage: sticking plaster
airplane: plane, jet
alarm clock: clock
alien monster: space invader
articulated lorry: lorry, semi truck
auto rickshaw: rickshaw
automobile: car
axe: hatchet
baby chick: chick
backpack: rucksack
baguette bread: baguette
barber pole: barber's pole
beer mug: mug of beer, pint of beer
bell pepper: capsicum
bicycle: bike
birthday cake: cake
black bird: crow, raven
blowfish: pufferfish
bottle with popping cork: bottle of champagne
bowl with spoon: bowl of cereal
bubble tea: boba tea
bullseye: target, dart board
camel: dromedary
cat face: kitty face
cheese wedge: piece of cheese
chess pawn: pawn
chicken: hen
clapper board: clapperboard
cloud with lightning and rain: thunderstorm
cloud with rain: rain cloud
cocktail glass: martini
coffin: casket
computer disk: minidisc
construction: road barrier
cookie: biscuit
couch and lamp: sofa, couch
cow face: cow's face
credit card: bank card
crescent moon: moon
crocodile: alligator
crossed swords: swords
custard: pudding, flan
cut of meat: steak
deciduous tree: tree, leafy tree
deer: stag
delivery truck: truck
desktop computer: computer
diya lamp: oil lamp
doughnut: donut
ear of corn: corn cob
eggplant: aubergine
electric plug: plug
envelope: letter
evergreen tree: fir tree, pine tree
face with tears of joy: laughing face
ferris wheel: big wheel
film projector: projector
fire: flame
fire engine: fire truck
firecracker: stick of dynamite
flashlight: torch
floppy disk: diskette
flying disc: frisbee
flying saucer: ufo
fork and knife: cutlery
four leaf clover: lucky clover
french fries: fries
front-facing baby chick: chick
game die: die
gear: cog, cogwheel
gem stone: gem, diamond
globe with meridians: globe
grinning face: happy face, smiley
hamburger: burger, cheeseburger
handbag: bag
headphone: pair of headphones
headstone: tombstone, gravestone
high voltage: lightning
high-heeled shoe: high heel
hippopotamus: hippo
honey pot: pot of honey
honeybee: bee, bumblebee
hot beverage: cup of coffee, cup of tea
hot dog: hotdog
hot pepper: chilli pepper
ice: ice cube
ice cream: bowl of ice cream
jack-o-lantern: halloween pumpkin, pumpkin
jeans: trousers
key: door key
kick scooter: scooter
kiwi fruit: kiwi
lady beetle: ladybug, ladybird
leafless tree: bare tree
light bulb: lightbulb
locomotive: steam train
locked: padlock
long drum: conga drum
loudly crying face: sobbing face
mantelpiece clock: old clock
milky way: galaxy
mobile phone: phone, smartphone
money bag: bag of money
moon cake: mooncake
moose: elk
motor scooter: vespa
motorcycle: motorbike
motorway: highway
mount fuji: japanese mountain
mouse trap: mousetrap
movie camera: film camera
mushroom: toadstool
musical keyboard: piano
nesting dolls: matryoshka dolls
nut and bolt: bolt
oncoming automobile: oncoming car
orangutan: ape
pancakes: stack of pancakes
package: parcel, cardboard box
performing arts: theatre masks
pickup truck: pickup
pick: pickaxe
pig nose: snout
pile of poo: poop
pill: capsule
police car: cop car
pool 8 ball: billiard ball
pot of food: stew
potted plant: houseplant
poultry leg: chicken leg
puzzle piece: jigsaw piece
racing car: race car
red apple: apple
red heart: heart
rhinoceros: rhino
rice ball: onigiri
ring buoy: life preserver
ringed planet: saturn, planet with rings
rocket: spaceship
roller coaster: rollercoaster
roller skate: rollerskate
rooster: cockerel
running shoe: sneaker, trainer
sailboat: boat, sailing boat
sauropod: brontosaurus, long-necked dinosaur
shallow pan of food: paella
skull and crossbones: pirate skull
slot machine: fruit machine
smiling face with heart-eyes: face in love
smiling face with sunglasses: cool face
soccer ball: football, ball
soft ice cream: ice cream cone
spaghetti: plate of pasta
speaker high volume: loudspeaker with waves
spiral shell: seashell
sport utility vehicle: camper van
steaming bowl: bowl of noodles
straight ruler: ruler
sun: shining sun
t-rex: dinosaur, tyrannosaurus
t-shirt: shirt, tee shirt
tangerine: mandarin
teacup without handle: teacup
television: tv, television set
tennis: tennis racket
thong sandal: flip flop
thread: spool of thread
tornado: whirlwind
treasure chest: pirate chest
tumbler glass: glass of whisky
turtle: tortoise
unlocked: open padlock
video camera: camcorder
video game: game controller, gamepad
videocassette: video tape
waffle: belgian waffle
wastebasket: waste paper basket
water wave: wave
wind face: blowing wind
wine glass: glass of wine
wood: log
wrapped gift: gift, present
wrench: spanner
yarn: ball of yarn
"""
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    name: tuple(words.split(", "))
    for name, _, words in (line.partition(": ") for line in _TABLE.strip().splitlines())
}
